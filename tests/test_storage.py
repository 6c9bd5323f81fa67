"""Files are old or new, never half."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from robustvideo.errors import InputError, RobustVideoError
from robustvideo.storage import (
    at_work,
    check_writable,
    is_temporary,
    others_at_work,
    place,
    remove_leftovers,
    slug,
    write_atomically,
    write_text,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei ä 二")
    assert path.read_text(encoding="utf-8") == "zwei ä 二"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_the_writer_gets_a_file_beside_with_the_same_suffix(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_bytes(b"x")

    write_atomically(tmp_path / "a.parquet", write)
    assert seen[0].parent == tmp_path
    assert seen[0].suffix == ".parquet"
    assert seen[0].name != "a.parquet"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RobustVideoError, match=r"a\.txt"):
        write_atomically(path, lambda temporary: None)
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RobustVideoError, match="Cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, word in (("pipe", "device or a pipe"), ("folder", "is a folder")):
        for refused in (check_writable, lambda path: write_text(path, "x")):
            with pytest.raises(InputError, match=word):
                refused(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()


def test_whether_a_file_can_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "deep" / "er" / "a.txt")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "a.txt", Path("/proc/a.txt")):
        with pytest.raises(RobustVideoError, match="Cannot write"):
            check_writable(path)


def test_an_address_that_needs_a_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("upath")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"s3://bucket/run needs another package .*robustvideo\[remote\]"):
        place("s3://bucket/run")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the write fails half way, as ENOSPC does."""
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from robustvideo.errors import RobustVideoError
        from robustvideo.storage import write_text
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_text(Path({str(path)!r}), "new" * 100_000)
        except RobustVideoError as error:
            print("refused:", error)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("refused: Cannot write"), done.stdout + done.stderr
    assert "intact" in done.stdout
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from robustvideo.storage import write_atomically
        def write(temporary):
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(Path({str(path)!r}), write)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert path.read_text() == "old"
    # what a killed process leaves behind must not look like a result
    assert [p.name for p in tmp_path.glob("*.txt") if not p.name.startswith(".")] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_two_threads_write_the_same_file(tmp_path: Path) -> None:
    """The last one wins; neither fails, nor does the file hold a mixture."""
    path = tmp_path / "a.txt"
    both_are_writing = threading.Barrier(2, timeout=10)
    errors: list[BaseException] = []

    def run(letter: str) -> None:
        def write(temporary: Path) -> None:
            with temporary.open("w") as handle:
                handle.write(letter * 50_000)
                handle.flush()
                both_are_writing.wait()
                handle.write(letter * 50_000)

        try:
            write_atomically(path, write)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_long_names_leave_room_for_the_temporary(tmp_path: Path) -> None:
    name = "a" * (255 - len(".txt")) + ".txt"
    write_text(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_new_file_is_readable_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("x")
    write_text(tmp_path / "ours.txt", "x")
    assert (tmp_path / "ours.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_slugs_are_short_safe_and_distinct() -> None:
    texts = ["a b", "a-b", "a/b", "", "ä", "../../etc/passwd", "x" * 500, "x" * 499, "pgd(eps=8/255)", "PGD(eps=8/255)"]
    slugs = [slug(t) for t in texts]
    assert len(set(slugs)) == len(texts)
    for s in slugs:
        assert "/" not in s
        assert s == Path(s).name
        assert 0 < len(s) <= 80
    assert slug("pgd(eps=8/255)").startswith("pgd-eps-8-255-")
    assert slug("a") == slug("a")


def test_what_a_kill_leaves_behind_is_seen_as_such_and_removed(tmp_path: Path) -> None:
    """A real process, killed in the middle of writing; a living writer's file stays."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom robustvideo.storage import write_atomically\n"
        "def write(t):\n    t.write_text('half'); print('written', flush=True); time.sleep(60)\n"
        f"write_atomically(Path({str(tmp_path / 'a.txt')!r}), write)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    (left,) = tmp_path.iterdir()
    assert is_temporary(left)
    remove_leftovers(tmp_path)
    assert left.exists()
    process.kill()
    process.wait()
    process.stdout.close()
    remove_leftovers(tmp_path)
    assert not left.exists()


def test_whoever_works_in_a_folder_is_seen_until_he_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with at_work(folder):
        assert not others_at_work(folder), "this process is no other"
        assert all(is_temporary(path) for path in folder.iterdir())
        code = (
            "from pathlib import Path\n"
            "from robustvideo.storage import others_at_work\n"
            f"print(others_at_work(Path({str(folder)!r})))"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
    assert not list(folder.iterdir())


def test_a_killed_worker_is_not_taken_for_one_at_work(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from robustvideo.storage import at_work
with at_work(Path({str(tmp_path)!r})):
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list(tmp_path.iterdir())
    assert not others_at_work(tmp_path)


def test_a_worker_on_another_machine_cannot_be_seen_to_be_gone(tmp_path: Path) -> None:
    (tmp_path / f".00000000-{os.getpid()}-12345678.tmp").touch()
    assert others_at_work(tmp_path)
