"""Sensors, rooms and a home that talk to each other: `roost dev examples/smart_home.py`.

A sensor reports to its room, the room decides about its heating. Each of these is a call that commits
by itself in its own object; when the caller is run again after a crash, the same call is not made
twice. Calls go one way (sensor to room): a room that called its sensor back would be a deadlock, and
would be told so at once.
"""

import msgspec

from roost import ApplicationError, DurableObject, method

HYSTERESIS_C = 0.5


class RoomState(msgspec.Struct, frozen=True):
    """What a room says of itself."""

    name: str
    celsius: float | None
    target_c: float
    heating: bool
    sensors: int


class NotPlacedError(ApplicationError):
    """A sensor must be in a room before it can report."""


class Sensor(DurableObject):
    """A thermometer; its key is its serial number."""

    room: str = ""
    celsius: float | None = None

    async def place(self, room: str) -> None:
        """Put it into a room, and take it out of the one where it was."""
        before, self.room = self.room, room
        if before and before != room:
            await self.ctx.object(Room, before).forget(self.ctx.key)
        if self.celsius is not None:
            await self.ctx.object(Room, room).measure(self.ctx.key, self.celsius)

    async def report(self, celsius: float) -> bool:
        """What it measures now; is the room being heated?"""
        if not self.room:
            raise NotPlacedError(f"sensor {self.ctx.key} is in no room: call place first")
        self.celsius = celsius
        return await self.ctx.object(Room, self.room).measure(self.ctx.key, celsius)


class Room(DurableObject):
    """The mean of its sensors decides about the heating."""

    measured: dict[str, float] = {}
    target_c: float = 20.0
    heating: bool = False

    async def measure(self, sensor: str, celsius: float) -> bool:
        """A sensor reports; is the room being heated?"""
        self.measured[sensor] = celsius
        self._decide()
        return self.heating

    async def forget(self, sensor: str) -> None:
        """A sensor went elsewhere."""
        self.measured.pop(sensor, None)
        self._decide()

    async def set_target(self, celsius: float) -> bool:
        """How warm it should be; is the room being heated?"""
        self.target_c = celsius
        self._decide()
        return self.heating

    @method(read_only=True)
    async def state(self) -> RoomState:
        """Such calls overlap with each other and write nothing."""
        return RoomState(
            self.ctx.key, self._mean(), self.target_c, self.heating, len(self.measured)
        )

    def _mean(self) -> float | None:
        return sum(self.measured.values()) / len(self.measured) if self.measured else None

    def _decide(self) -> None:
        mean = self._mean()
        if mean is None or mean > self.target_c + HYSTERESIS_C:
            self.heating = False
        elif mean < self.target_c - HYSTERESIS_C:
            self.heating = True


class Home(DurableObject):
    """Knows its rooms, and asks them."""

    rooms: list[str] = []

    async def add_room(self, name: str) -> int:
        """How many rooms there are now."""
        if name not in self.rooms:
            self.rooms.append(name)
        return len(self.rooms)

    @method(read_only=True)
    async def overview(self) -> list[RoomState]:
        """Every room, asked one after another."""
        return [await self.ctx.object(Room, name).state() for name in self.rooms]
