"""What maps, command lines and the records of distributions say."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts.mapped_files import Mapped, parse_maps
from agent.facts.python_commands import Command, parse_command
from agent.facts.python_origins import Trace, origins, parse_entry_points
from tests.fakes.processes import distribution, mapping
from tests.fakes.trees import plant

SITE = "/env/lib/python3.11/site-packages"


def test_lines_as_a_real_kernel_writes_them_are_understood():
    # Linux 6.18, shortened: a program, the heap, a device, shared memory, a library that was replaced.
    text = (
        b"55d0c8a3e000-55d0c8a40000 r-xp 00002000 103:01 1835                      /usr/bin/sleep\n"
        b"55d0e9a61000-55d0e9a82000 rw-p 00000000 00:00 0                          [heap]\n"
        b"7f3a00000000-7f3a00001000 rw-s 00000000 00:05 512                        /dev/nvidia0\n"
        b"7f3a10000000-7f3a10001000 rwxs 00000000 00:01 1024                       /memfd:jit (deleted)\n"
        b"7f3a20000000-7f3a20001000 r-xp 00028000 103:01 2077                      /usr/lib/libc.so.6 (deleted)\n"
        b"7f3a20001000-7f3a20002000 r-xp 00029000 103:01 2077                      /usr/lib/libc.so.6 (deleted)\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
    )
    assert list(parse_maps([text])) == [
        Mapped(path="/dev/nvidia0", inode=512, executable=False, deleted=False),
        Mapped(path="/memfd:jit", inode=1024, executable=True, deleted=True),
        Mapped(path="/usr/lib/libc.so.6", inode=2077, executable=True, deleted=True),
    ]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_maps_and_where_blocks_end_does_not_matter(noise, size):
    text = noise + b"\n" + mapping(f"{SITE}/torch/_C.so").encode() + noise
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(parse_maps(blocks)) == list(parse_maps([text]))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\\"), min_size=1, max_size=60))
def test_a_path_of_any_characters_comes_back(name):
    path = f"{SITE}/{name}"
    (mapped,) = parse_maps([mapping(path.replace("\n", "\\012")).encode()])
    assert mapped.path + (" (deleted)" if mapped.deleted else "") == path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("python", Command()),
        ("python train.py -m no", Command(script="train.py")),
        (
            "python -m vllm.entrypoints.openai.api_server --model x",
            Command(module="vllm.entrypoints.openai.api_server"),
        ),
        ("python -mpip install", Command(module="pip")),
        ("python -Im pip", Command(module="pip")),
        ("python -u -X dev -W ignore -Xfrozen_modules=off run.py", Command(script="run.py")),
        ("python -c pass -m pip", Command()),
        ("python -ucpass", Command()),
        ("python --check-hash-based-pycs always run.py", Command(script="run.py")),
        ("python --version", Command()),
        ("python -- -m", Command(script="-m")),
        ("python - x", Command(script="-")),
        ("python -m", Command()),
        ("", Command()),
    ],
)
def test_a_command_line_says_what_python_is_to_run(words, said):
    assert parse_command(words.split(" ")) == said


@given(st.lists(st.text(st.sampled_from("-cmWX ab/"), max_size=6)))
def test_any_words_are_a_command_line_that_names_at_most_one_thing(words):
    said = parse_command(words)
    assert not (said.module and said.script)


@given(st.binary(max_size=300))
def test_any_bytes_are_entry_points(content):
    assert all(claim.startswith(b"../../../bin/") for claim, _ in parse_entry_points(content))


def test_only_programs_are_taken_from_entry_points():
    text = b"[console_scripts]\na = x:y\n# b = x:y\n[other]\nc = x:y\n\n[gui_scripts]\nd=x:y\n"
    assert [claim for claim, _ in parse_entry_points(text)] == [b"../../../bin/a", b"../../../bin/d"]


def found(tmp_path, name, *parts, kind="file"):
    files: dict[str, str | bytes] = {f"{SITE}/x.py": ""}
    for part in parts:
        files.update(part)
    trace = Trace(kind=kind, name=name)
    return origins(plant(tmp_path, files), SITE, [trace]).get(trace)


@pytest.mark.parametrize(
    ("name", "distribution_name", "files"),
    [
        ("numpy/core/_multiarray.so", "numpy", ()),
        ("scikit_learn.libs/libgomp.so.1", "scikit_learn", ()),
        ("ujson.cpython-311-x86_64-linux-gnu.so", "ujson", ()),
        ("PIL/_imaging.so", "pillow", ("PIL/__init__.py", "PIL/_imaging.so")),
        ("nvidia/cublas/lib/libcublas.so.12", "nvidia_cublas_cu12", ("nvidia/cublas/lib/libcublas.so.12",)),
        ("_cffi_backend.abi3.so", "cffi", ("cffi/__init__.py", "_cffi_backend.abi3.so")),
    ],
)
def test_a_file_comes_with_the_distribution_that_is_called_so_or_says_so(tmp_path, name, distribution_name, files):
    others = distribution(SITE, "other", "other/__init__.py", "nvidia/cudnn/lib/libcudnn.so.9")
    own = distribution(SITE, distribution_name, *files)
    assert found(tmp_path, name, others, own) == distribution_name.replace("_", "-")


def test_without_a_record_the_outermost_names_tell_unless_several_share_one(tmp_path):
    yaml = distribution(SITE, "PyYAML", top_level="_yaml\nyaml\n")
    assert found(tmp_path / "one", "yaml/_yaml.so", yaml) == "pyyaml"
    shared = [distribution(SITE, name, top_level="google\n") for name in ("protobuf", "googleapis_common_protos")]
    assert found(tmp_path / "two", "google/_upb/_message.so", *shared) is None
    sure = distribution(SITE, "zz_protobuf", "google/_upb/_message.so", top_level="google\n")
    assert found(tmp_path / "sure", "google/_upb/_message.so", *shared, sure) == "zz-protobuf"


def test_a_program_is_not_taken_for_the_distribution_of_its_name(tmp_path):
    meta = distribution(SITE, "jupyter")
    core = distribution(SITE, "jupyter_core", "../../../bin/jupyter")
    assert found(tmp_path, "jupyter", meta, core, kind="program") == "jupyter-core"


def test_what_nobody_claims_has_no_distribution(tmp_path):
    assert found(tmp_path, "mine/_x.so", distribution(SITE, "numpy", "numpy/__init__.py")) is None


def test_an_egg_and_one_that_was_left_behind(tmp_path):
    egg = {f"{SITE}/old-1.0-py3.11.egg/old/_x.so": "", f"{SITE}/old-1.0.egg-info/PKG-INFO": "Name: old\n"}
    assert found(tmp_path / "egg", "old-1.0-py3.11.egg/old/_x.so", egg) == "old"
    behind = {f"{SITE}/~umpy-1.0.dist-info/RECORD": "numpy/_x.so,,\n"}
    assert found(tmp_path / "behind", "numpy/_x.so", behind) is None


def test_what_was_found_is_remembered_until_the_environment_changes(tmp_path):
    host = plant(tmp_path, distribution(SITE, "pillow", "PIL/_imaging.so"))
    trace = Trace(kind="file", name="PIL/_imaging.so")
    assert origins(host, SITE, [trace]) == {trace: "pillow"}
    (tmp_path / "env/lib/python3.11/site-packages/pillow-1.0.dist-info/RECORD").unlink()
    assert origins(host, SITE, [trace]) == {trace: "pillow"}
    plant(tmp_path, {f"{SITE}/new.py": ""})
    assert origins(host, SITE, [trace]) == {}


def test_a_record_that_is_a_link_or_a_pipe_is_not_read(tmp_path):
    site = tmp_path / "env/lib/python3.11/site-packages"
    elsewhere = {"/secret": "PIL/_imaging.so,,\n", f"{SITE}/a-1.0.dist-info/RECORD": "-> ../../../../../../secret"}
    host = plant(tmp_path, {**elsewhere, f"{SITE}/b-1.0.dist-info/METADATA": ""})
    os.mkfifo(site / "b-1.0.dist-info/RECORD")
    assert origins(host, SITE, [Trace(kind="file", name="PIL/_imaging.so")]) == {}
