"""Ids are new once."""

import tracemalloc

from eagle_hf.data.reading.seen_ids import SeenIds


def test_an_id_is_new_once():
    seen = SeenIds()
    assert [seen.add(id) for id in ("a", "b", "a", "", "", "ä")] == [
        *(True, True, False, True, False, True)
    ]
    assert len(seen) == 4


def test_many_ids_are_told_apart_in_a_few_bytes_each():
    tracemalloc.start()
    seen = SeenIds()
    new = sum(seen.add(f"mine-{number}") for number in range(20_000))
    again = sum(seen.add(f"mine-{number}") for number in range(20_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (new, again, len(seen)) == (20_000, 0, 20_000)
    assert peak < 40 * 20_000
