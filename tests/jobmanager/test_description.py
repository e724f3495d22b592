"""From RSL to a typed description (job-manager.md §3-5.3)."""

import dataclasses

import pytest

from jobmanager.description import (
    CHECK_ORDER,
    Destination,
    JobDescription,
    JobType,
    Transfer,
    describe,
    describe_stdio,
    from_json,
    scratch_directory,
    to_json,
)
from protocol.errors import GramError
from protocol.tables import ErrorCode

SYMBOLS = {"HOME": "/home/alice", "LOGNAME": "alice", "GLOBUS_LOCATION": "/usr"}
EXE = "(executable=/bin/true)"
NULL = (Destination("/dev/null"),)


def job(fragment: str) -> JobDescription:
    return describe(f"&{EXE}{fragment}", SYMBOLS)


def code(text: str) -> int:
    with pytest.raises(GramError) as caught:
        describe(text, SYMBOLS)
    assert caught.value.message
    return int(caught.value.code)


def test_defaults() -> None:
    assert describe("&(executable=/bin/true)", SYMBOLS) == JobDescription(
        executable="/bin/true",
        arguments=(),
        directory="/home/alice",
        environment=(),
        stdin="/dev/null",
        stdout=NULL,
        stderr=NULL,
        count=1,
        job_type=JobType.MULTIPLE,
        host_count=None,
        queue=None,
        project=None,
        max_time=None,
        max_wall_time=None,
        max_cpu_time=None,
        max_memory=None,
        min_memory=None,
        two_phase=0,
        dry_run=False,
        save_state=None,
        user_name=None,
        library_path=("/usr/lib",),
        file_stage_in=(),
        file_stage_in_shared=(),
        file_stage_out=(),
        file_clean_up=(),
        scratch_dir=None,
        proxy_timeout=None,
    )


EVERYTHING = """
&(rsl_substitution=(BASE $(HOME)/runs)(OUT https://c:1/o))(Executable=bin/sim)
 (arguments="a b" '' $(LOGNAME) "it's" "$(HOME)")(directory=run1)(environment=(A "1 2")(B "")(A 3))
 (stdin=in.txt)(stdout=$(OUT)/dev/stdout)(stderr=err)(count=3)(job_type=single)(host_count=2)
 (queue=q)(project=p)(maxTime=1)(max_wall_time=2)(max_cpu_time=0)(max_memory=4)(min_memory=5)
 (two_phase=yes)(dry_run=yes)(save_state=no)(username=alice)(library_path=/l1 /l2)
 (file_stage_in=(https://c:1/a in/a)(https://c:1/b /tmp/b))(file_stage_in_shared=(file:///x s))
 (file_stage_out=(out $(OUT)/1)(file:/tmp/x $(OUT)/2)(x-gass-cache://y $(OUT)/3))
 (file_clean_up=tmp.1 /tmp/2)(scratch_dir=scratch)(proxy_timeout=-5)(gram_my_job=independent)
"""


def test_everything() -> None:
    assert describe(EVERYTHING, SYMBOLS) == JobDescription(
        executable="/home/alice/run1/bin/sim",
        arguments=("a b", "", "alice", "it's", "$(HOME)"),
        directory="/home/alice/run1",
        environment=(("A", "1 2"), ("B", ""), ("A", "3")),
        stdin="/home/alice/run1/in.txt",
        stdout=(Destination("https://c:1/o/dev/stdout"),),
        stderr=(Destination("/home/alice/run1/err"),),
        count=3,
        job_type=JobType.SINGLE,
        host_count=2,
        queue="q",
        project="p",
        max_time=1,
        max_wall_time=2,
        max_cpu_time=0,
        max_memory=4,
        min_memory=5,
        two_phase=60,
        dry_run=True,
        save_state=False,
        user_name="alice",
        library_path=("/l1", "/l2"),
        file_stage_in=(
            Transfer("https://c:1/a", "/home/alice/run1/in/a"),
            Transfer("https://c:1/b", "/tmp/b"),
        ),
        file_stage_in_shared=(Transfer("file:///x", "/home/alice/run1/s"),),
        file_stage_out=(
            Transfer("/home/alice/run1/out", "https://c:1/o/1"),
            Transfer("file:/tmp/x", "https://c:1/o/2"),
            Transfer("x-gass-cache://y", "https://c:1/o/3"),
        ),
        file_clean_up=("/home/alice/run1/tmp.1", "/tmp/2"),
        scratch_dir="/home/alice/scratch",
        proxy_timeout=-5,
        substitutions=(("BASE", "/home/alice/runs"), ("OUT", "https://c:1/o")),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # job-manager.md §3.7, what is refused in the reply
        (f"&{EXE}(foo=bar)", 1),
        ("&(count=1)", 81),
        (f"&{EXE}(job_type=foo)", 19),
        (f"&{EXE}(count=abc)", 14),
        (f"&{EXE}(count=1.5)", 14),
        (f'&{EXE}(count="1 2")', 14),
        (f"&{EXE}(count=(1))", 14),
        (f"&{EXE}(count=0)", 14),
        (f"&{EXE}(count=-1)", 14),
        (f"&{EXE}(dry_run=maybe)", 134),
        (f"&{EXE}(dry_run=YES)", 134),
        (f"&{EXE}(dry_run=yes no)", 53),
        (f"&{EXE}(save_state=foo)", 150),
        (f"&{EXE}(two_phase=abc)", 114),
        (f"&{EXE}(two_phase=(1))", 114),
        (f"&{EXE}(gram_my_job=foo)", 20),
        (f"&{EXE}(stdout_position=0)", 138),
        (f"&{EXE}(proxy_timeout=abc)", 153),
        (f"&{EXE}(scratch_dir=(a b))", 146),
        (f"&{EXE}(file_stage_in=(a))", 141),
        (f"&{EXE}(file_stage_in=a b)", 141),
        (f"&{EXE}(file_stage_in=(a b)(a (b)))", 141),
        (f"&{EXE}(file_stage_in_shared=(a b c))", 142),
        (f"&{EXE}(file_stage_out=(a b) c)", 143),
        (f"&{EXE}(stdout=a b)", 65),
        (f"&{EXE}(stdout=(a b))", 65),
        (f"&{EXE}(stderr=a (b))", 63),
        (f"&{EXE}(stderr=(a b))", 63),
        (f"&{EXE}(arguments=$(VAR))", 39),
        (f"&{EXE}(arguments=$(HOME x))", 39),
        (f"&{EXE}(arguments=$($(HOME)))", 39),
        (f"&{EXE}(rsl_substitution=(A))", 39),
        (f"&{EXE}(count>1)", 48),
        (f"&{EXE}(count!=1)", 48),
        (f"|{EXE}", 48),
        (f"+(&{EXE})", 48),
        # §3.4: more in the reply, and what a new implementation should refuse
        (f"&{EXE}(username=a b)", 48),
        (f"&{EXE}(max_time=abc)", 13),
        (f"&{EXE}(max_time=-1)", 13),
        (f"&{EXE}(max_time=(1))", 58),
        (f"&{EXE}(max_wall_time=x)", 102),
        (f"&{EXE}(max_wall_time=1 2)", 101),
        (f"&{EXE}(max_cpu_time=1h)", 104),
        (f"&{EXE}(max_memory=-1)", 87),
        (f'&{EXE}(min_memory="")', 86),
        (f"&{EXE}(host_count=x)", 35),
        (f"&{EXE}(queue=a b)", 62),
        (f"&{EXE}(project=(a))", 61),
        (f"&{EXE}(library_path=(a))", 134),
        (f"&{EXE}(file_clean_up=(a))", 145),
        (f"&{EXE}(count=99999999999999999999)", 14),
        (f"&{EXE}(count={'9' * 5000})", 14),
        (f"&{EXE}(count=4294967297)", 14),
        (f"&{EXE}(count=٣)", 14),
        # syntax
        ("", 48),
        ("executable=/bin/true", 48),
        (f"&{EXE}(queue=)", 48),
        ("&(executable=", 48),
        (f"&{EXE}(x={'(' * 9_995}1{')' * 9_995})", 48),
        (f"&{EXE}(x=\ud800)", 48),
    ],
)
def test_refused(text: str, expected: int) -> None:
    assert code(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As observed on the reference: variables first, then the relations in their order, then
        # what is missing, then the typed attributes in the order of §2.1.
        ("&(foo=1)(stdout=$(NOPE))", 39),
        ("|(executable=$(NOPE))", 39),
        (f"&{EXE}(scratch_dir=(a b))(arguments=$(NOPE))", 146),
        (f"&{EXE}(scratch_dir=$(NOPE))(foo=1)", 39),
        ("&(count=abc)(foo=1)", 1),
        ("&(stdout=a b)", 81),
        (f"&{EXE}(stdout=a b)(file_stage_in=(a))", 141),
        (f"&{EXE}(file_stage_out=(a))(file_stage_in=(a))", 141),
        (f"&{EXE}(stderr=a b)(stdout=a b)(two_phase=x)(count=abc)", 14),
        (f"&{EXE}(stderr=a b)(stdout=a b)(proxy_timeout=x)(two_phase=x)", 114),
        (f"&{EXE}(stderr=a b)(stdout=a b)", 65),
    ],
)
def test_first_error_wins(text: str, expected: int) -> None:
    assert code(text) == expected


def test_messages_say_what_is_wrong() -> None:
    for text, message in (
        ("&(foo=1)", 'the RSL attribute "foo" is not supported by the LRM adapter'),
        (f"&{EXE}(arguments=$(NOPE))", 'the variable "NOPE" is not defined'),
        (f"&{EXE}(count=x)", 'the RSL attribute "count" needs an integer greater than zero'),
        ("&(executable=a", "unexpected end of input at byte 14 (expected ')')"),
    ):
        with pytest.raises(GramError) as caught:
            describe(text, SYMBOLS)
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("fragment", "codes"),
    [
        ("(executable='')", [55]),
        ("(executable=/bin/a /bin/b)", [55]),
        ("(executable=(/bin/a))", [55]),
        (f"{EXE}(arguments=(a b))", [50]),
        (f"{EXE}(arguments=a (b))", [50]),
        (f"{EXE}(directory=a b)", [52]),
        (f"{EXE}(directory='')", [4]),
        (f"{EXE}(environment=(A))", [54]),
        (f"{EXE}(environment=A 1)", [54]),
        (f"{EXE}(environment=(A (1)))", [54]),
        (f"{EXE}(environment=('A=B' 1))", [54]),
        (f"{EXE}(environment=('' 1))", [54]),
        (f"{EXE}(stdin='')", [64]),
        (f"{EXE}(stdin=a b)", [64]),
        (
            "(arguments=(a))(stdin='')(executable='')(environment=(A))(directory=(a))",
            [52, 54, 55, 64, 50],
        ),
    ],
)
def test_errors_left_to_the_job(fragment: str, codes: list[int]) -> None:
    """§3.4 "(job)": the request is accepted; fork's order."""
    description = describe(f"&{fragment}", SYMBOLS)
    assert [int(error) for error, _ in description.deferred] == codes
    assert all(text for _, text in description.deferred)
    assert description.directory == "/home/alice"
    by_code = {55: "executable", 64: "stdin", 50: "arguments", 54: "environment"}
    for number in set(codes) & set(by_code):
        assert not getattr(description, by_code[number])


def test_check_order_is_complete() -> None:
    order = [52, 4, 54, 14, 26, 55, 5, 72, 64, 11, 50]
    assert [int(error) for error in CHECK_ORDER] == order


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/bin/true", "/bin/true"),
        ("a.out", "/home/alice/w/a.out"),
        ("bin/a.out", "/home/alice/w/bin/a.out"),
        ("./a.out", "./a.out"),
        ("../a.out", "../a.out"),
        ("https://h:1/a.out", "https://h:1/a.out"),
        ("gsiftp://h/a", "gsiftp://h/a"),
        ("$(HOME)/a.out", "/home/alice/a.out"),
    ],
)
def test_executable_paths(path: str, resolved: str) -> None:
    assert describe(f"&(executable={path})(directory=w)", SYMBOLS).executable == resolved


def test_paths_are_kept_as_they_are_written() -> None:
    assert job("(directory=a/../b/)(stdin=//x/./y)").directory == "/home/alice/a/../b/"
    assert job("(directory=/data)(stdin=x)(stdout=y)").stdout == (Destination("/data/y"),)


@pytest.mark.parametrize(
    ("value", "destinations"),
    [
        ("out", [("/home/alice/out", None)]),
        ("https://h/x", [("https://h/x", None)]),
        ("x-gass-cache://n", [("x-gass-cache://n", None)]),
        ("x-gass-cache://n tag", [("x-gass-cache://n", "tag")]),
        ("(out)", [("/home/alice/out", None)]),
        (
            "(https://h/x) (/tmp/y) (x-gass-cache://n tag) (/dev/null) (x-gass-cache://m)",
            [
                ("https://h/x", None),
                ("/tmp/y", None),
                ("x-gass-cache://n", "tag"),
                ("/dev/null", None),
                ("x-gass-cache://m", None),
            ],
        ),
    ],
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_forms(name: str, value: str, destinations: list[tuple[str, str | None]]) -> None:
    found = getattr(job(f"({name}={value})"), name)
    assert [(item.url, item.tag) for item in found] == destinations


@pytest.mark.parametrize(
    "value",
    [
        "https://h/x tag",
        "(https://h/x tag)",
        "x-gass-cache://n tag more",
        "(x-gass-cache://n tag more)",
        "(x-gass-cache://n) tag",
        "((a))",
        "(a) ((b))",
    ],
)
@pytest.mark.parametrize(("name", "expected"), [("stdout", 65), ("stderr", 63)])
def test_output_forms_that_are_wrong(name: str, value: str, expected: int) -> None:
    assert code(f"&{EXE}({name}={value})") == expected
    with pytest.raises(GramError) as caught:
        describe_stdio(f"&({name}={value})", SYMBOLS, job(""))
    assert caught.value.code == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("yes", 60), ("no", 0), ("0", 0), ("17", 17), ("-1", -1), ('" +3"', 3), ('"007"', 7)],
)
def test_two_phase(value: str, seconds: int) -> None:
    assert job(f"(two_phase={value})").two_phase == seconds


def test_first_occurrence_counts() -> None:
    description = job("(count=2)(Count=3)(executable=/bin/false)(stdout=a)(stdout=b)")
    assert (description.count, description.executable) == (2, "/bin/true")
    assert description.stdout == (Destination("/home/alice/a"),)


def test_variables_of_the_request_are_kept() -> None:
    description = job("(rsl_substitution=(A 1)(B $(A)2))(rsl_substitution=(A 3)(C 4))")
    assert description.substitutions == (("A", "1"), ("B", "12"), ("C", "4"))


def test_allowed_values_may_come_from_variables() -> None:
    assert job("(rsl_substitution=(D yes))(dry_run=$(D))").dry_run


def test_defaults_do_not_see_the_users_variables() -> None:
    description = job("(rsl_substitution=(HOME /elsewhere)(GLOBUS_LOCATION /x))(stdin=$(HOME)/in)")
    assert description.directory == "/home/alice"
    assert description.library_path == ("/usr/lib",)
    assert description.stdin == "/elsewhere/in"


def test_scratch_directory_sees_predefined_variables_only() -> None:
    symbols = {**SYMBOLS, "SCRATCH_DIRECTORY": "/made"}
    text = f"&{EXE}(rsl_substitution=(HOME /x)(A 1))(scratch_dir=$(HOME)/s)(arguments=$(A))"
    assert describe(text, symbols).scratch_dir == "/home/alice/s"
    assert scratch_directory(text, symbols) == "/home/alice/s"
    assert scratch_directory(f"&{EXE}", symbols) is None
    assert scratch_directory("&(scratch_dir=.)", symbols) == "/home/alice/."
    for value in ("$(A)", "$(SCRATCH_DIRECTORY)"):
        text = f"&{EXE}(rsl_substitution=(A 1))(scratch_dir={value})"
        for action in (describe, scratch_directory):
            with pytest.raises(GramError) as caught:
                action(text, symbols)
            assert caught.value.code == ErrorCode.RSL_EVALUATION_FAILED


def test_scratch_directory_variable() -> None:
    symbols = {**SYMBOLS, "SCRATCH_DIRECTORY": "/made"}
    description = describe(f"&{EXE}(scratch_dir=/tmp)(directory=$(SCRATCH_DIRECTORY))", symbols)
    assert (description.scratch_dir, description.directory) == ("/tmp", "/made")


def test_values_arrive_unchanged() -> None:
    awkward = (
        "a b",
        "",
        "$(HOME)",
        "back\\slash",
        "new\nline",
        'quo"te',
        "\udcff\udc80",
        "é",
        "`id`",
    )
    quoted = " ".join('"' + text.replace('"', '""') + '"' for text in awkward)
    assert job(f"(arguments={quoted})").arguments == awkward


def test_long_argument_lists() -> None:
    arguments = tuple(f"argument{number}" for number in range(4_000))
    assert job(f"(arguments={' '.join(arguments)})").arguments == arguments


def test_text_after_the_end_of_scanning_is_ignored() -> None:
    assert describe(f"&{EXE}~junk", SYMBOLS) == job("")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("&(stdout=new)", {"stdout": (Destination("/home/alice/run1/new"),)}),
        ("&(StdErr=$(OUT)/e)", {"stderr": (Destination("https://c:1/o/e"),)}),
        (
            "&(stdout=(a)(https://h/b))(stderr=/e)(stdout_position=0)(stderr_position=(1))",
            {
                "stdout": (Destination("/home/alice/run1/a"), Destination("https://h/b")),
                "stderr": (Destination("/e"),),
            },
        ),
        ("&(stdout=a)(stdout=b)", {"stdout": (Destination("/home/alice/run1/a"),)}),
        ("&(stdout_position=0)", {}),
    ],
)
def test_stdio_update(text: str, changes: dict[str, tuple[Destination, ...]]) -> None:
    base = describe(EVERYTHING, SYMBOLS)
    assert describe_stdio(text, SYMBOLS, base) == dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&(foo=1)", 48),
        ("&(foo=$(NOPE))", 48),
        ("&(executable=/bin/true)", 48),
        ("&(count=2)", 48),
        ("&(rsl_substitution=(A 1))", 48),
        ("&(rsl_substitution=(A 1))(stdout=$(A))", 48),
        ("&(stdout!=a)", 48),
        ("|(stdout=a)", 48),
        ("stdout=a", 48),
        ("&(stdout=a", 48),
        ("", 48),
        ("&(stdout=$(NOPE))", 39),
        ("&(stdout=$(HOME x))", 39),
    ],
)
def test_stdio_update_refused(text: str, expected: int) -> None:
    with pytest.raises(GramError) as caught:
        describe_stdio(text, SYMBOLS, job(""))
    assert caught.value.code == expected


def test_stored_form() -> None:
    for description in (
        describe(EVERYTHING, SYMBOLS),
        describe("&(executable='')(stdin='')", SYMBOLS),
        job('(stdout=x-gass-cache://n t)(arguments="\udcff" "é" "\U0001f600\udcff" "\udc80")'),
    ):
        text = to_json(description)
        assert text.isascii()
        back = from_json(text)
        assert back == description
        assert isinstance(back.job_type, JobType)
        assert all(isinstance(error, ErrorCode) for error, _ in back.deferred)


@pytest.mark.parametrize("text", ["", "{}", '{"nosuch": 1}', '{"stdout": [1]}'])
def test_stored_form_that_is_not_ours(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json(text)


def test_what_may_be_secret_is_not_in_the_repr() -> None:
    description = job("(arguments=SECRET)(environment=(A SECRET))(rsl_substitution=(B SECRET))")
    assert "SECRET" not in repr(description)
