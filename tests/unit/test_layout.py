from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from roost.cluster.ids import child_request_id, first_sent_ms, request_id, shard_of
from roost_node.storage import layout

texts = st.text(max_size=20) | st.text(alphabet="a\0\x01\xffé", max_size=8)


@given(texts, texts)
@example("a", "a\0")
@example("", "\0")
@example("a\0", "a\x01")
def test_encoded_texts_sort_like_their_utf8(one: str, two: str) -> None:
    assert (layout.text(one) < layout.text(two)) == (one.encode() < two.encode())


@given(texts, texts)
def test_an_object_id_is_read_back(class_name: str, key: str) -> None:
    raw = layout.object_id(class_name, key)
    assert layout.read_object_id(raw + b"rest") == (class_name, key, len(raw))


@given(texts, texts, texts, texts)
def test_no_object_id_is_a_prefix_of_another(a: str, b: str, c: str, d: str) -> None:
    one, two = layout.object_id(a, b), layout.object_id(c, d)
    assert one == two or not one.startswith(two)


@given(texts, texts, st.binary(max_size=20), st.integers(0, 4095))
def test_an_objects_rows_lie_in_its_range_and_no_others_do(
    class_name: str, key: str, row: bytes, shard: int
) -> None:
    group = layout.object_id(class_name, key)
    low, high = layout.rows_range(shard, group)
    assert low <= low + row < high
    other = layout.rows_range(shard, layout.object_id(class_name, key + "x"))[0]
    assert not low <= other < high


@given(texts, st.text(min_size=1, max_size=6), st.text(max_size=6))
def test_a_prefix_range_holds_the_keys_that_begin_so(
    class_name: str, prefix: str, rest: str
) -> None:
    if not class_name:
        return
    low, high = layout.objects_range(7, class_name, prefix)
    inside = layout.record_key(7, layout.object_id(class_name, prefix + rest))
    assert low <= inside < high
    assert layout.read_record_key(inside) == (class_name, prefix + rest)
    outside = layout.record_key(7, layout.object_id(class_name, "\U0010ffff" + prefix))
    assert prefix.startswith("\U0010ffff") or not low <= outside < high


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80))
def test_a_request_id_is_a_version_7_uuid_with_its_time(ms: int, bits: int) -> None:
    raw = request_id(ms, bits)
    assert first_sent_ms(raw) == ms
    assert raw[6] >> 4 == 7
    assert raw[8] >> 6 == 2


def test_a_childs_id_is_the_same_for_the_same_call_and_differs_for_another() -> None:
    parent = request_id(123456, 99)
    assert child_request_id(parent, b"t", 0) == child_request_id(parent, b"t", 0)
    ids = {
        child_request_id(parent, b"t", 0),
        child_request_id(parent, b"t", 1),
        child_request_id(parent, b"u", 0),
        child_request_id(request_id(123456, 98), b"t", 0),
    }
    assert len(ids) == 4
    assert {first_sent_ms(i) for i in ids} == {123456}


def test_a_shard_is_fixed_by_seed_and_name() -> None:
    one = shard_of("Counter", "page-42", seed=b"seed", shards=1024)
    assert one == shard_of("Counter", "page-42", seed=b"seed", shards=1024)
    spread = {shard_of("Counter", f"{n}", seed=b"seed", shards=16) for n in range(500)}
    assert spread == set(range(16))
