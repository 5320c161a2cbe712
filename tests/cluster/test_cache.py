"""The cache's promise: an entry is there whole, once, under a key that says all that made it."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hack.cluster.native import programs, versions
from hack.lib import cache


def test_each_fact_and_each_file_is_part_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "go.sum"
    file.write_text("one")
    keys = {cache.content_key(["a", "b"], []), cache.content_key(["ab"], []), cache.content_key(["b", "a"], [])}
    keys.add(cache.content_key(["a", "b"], [file]))
    file.write_text("two")
    keys.add(cache.content_key(["a", "b"], [file]))
    assert len(keys) == 5


def test_a_programs_key_follows_its_version_flags_and_toolchain() -> None:
    program = versions.program("helm")
    newer = dataclasses.replace(program, module=dataclasses.replace(program.module, version="v9"))
    flagged = dataclasses.replace(program, module=dataclasses.replace(program.module, ldflags=()))
    keys = [programs.key_of(variant, "go1.26 linux amd64") for variant in (program, newer, flagged)]
    assert len({*keys, programs.key_of(program, "go1.27 linux amd64")}) == 4
    assert programs.key_of(program, "go1.26 linux amd64") == keys[0]


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    def build(place: Path) -> None:
        (place / "program").write_text("built")

    def fail(_: Path) -> None:
        raise AssertionError

    made = cache.entry(tmp_path, "name", "key", build)
    assert cache.entry(tmp_path, "name", "key", fail) == made
    assert (made / "program").read_text() == "built"


def test_a_failed_build_leaves_no_entry_and_is_swept_by_the_next(tmp_path: Path) -> None:
    def interrupted(place: Path) -> None:
        (place / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry(tmp_path, "name", "key", interrupted)
    assert not (tmp_path / "name-key").exists()
    made = cache.entry(tmp_path, "name", "key", lambda place: (place / "whole").touch())
    assert [file.name for file in made.iterdir()] == ["whole"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["build.lock", "name-key"]


def test_builders_at_the_same_time_build_one_after_the_other(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(place: Path) -> None:
        assert list(tmp_path.glob(".building-*")) == [place]
        builds.append(place)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: cache.entry(tmp_path, "name", "key", build), range(4)))
    assert len(builds) == 1
    assert set(made) == {tmp_path / "name-key"}
