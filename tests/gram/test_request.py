"""RSL of the library's own jobs: always trees, so that any text survives."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

import rsl
from gram.client.request import (
    Program,
    program_request,
    user_of,
    with_dry_run,
    with_gass,
    with_stored_output,
)
from jobmanager.description import describe

URL = "https://h:1"
SYMBOLS = {
    "HOME": "/home/a",
    "GLOBUS_LOCATION": "/usr",
    "GLOBUS_GRAM_JOB_CONTACT": "https://h:2/3/4/",
}
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NAMES = TEXT.filter(lambda text: text and "=" not in text)


@given(
    st.lists(TEXT, max_size=5), st.dictionaries(NAMES, TEXT, max_size=4), st.sampled_from("abc$(#")
)
def test_any_argument_and_variable_arrives(
    arguments: list[str], environment: dict[str, str], name: str
) -> None:
    program = Program((f"/bin/{name}", *arguments), environment=environment)
    text = rsl.unparse(program_request(program, URL, stdin="/dev/stdin"))
    found = describe(text, SYMBOLS)
    assert found.executable == f"/bin/{name}"
    assert found.arguments == tuple(arguments)
    assert dict(found.environment) == environment
    assert found.stdin == f"{URL}/dev/stdin"
    assert [item.url for item in (*found.stdout, *found.stderr)] == [
        f"{URL}/dev/stdout",
        f"{URL}/dev/stderr",
    ]


def test_options_of_a_program() -> None:
    program = Program(
        ["/bin/true"],
        directory="/tmp",
        count=3,
        job_type="single",
        queue="q",
        project="p",
        max_time=5,
        extra=rsl.parse("&(count=9)(max_memory=7)"),
    )
    found = describe(rsl.unparse(program_request(program, URL, stdin=None)), SYMBOLS)
    assert (found.directory, found.job_type, found.queue) == ("/tmp", "single", "q")
    assert (found.project, found.max_time, found.max_memory) == ("p", 5, 7)
    assert found.count == 9  # what is given by hand wins
    assert found.stdin == "/dev/null"


@pytest.mark.parametrize(
    "program",
    [
        Program([]),
        Program(["a", "b\0c"]),
        Program(["a"], environment={"": "x"}),
        Program(["a"], environment={"a=b": "x"}),
        Program(["a"], environment={"a": "x\0"}),
    ],
)
def test_what_cannot_be_passed_is_an_error(program: Program) -> None:
    with pytest.raises(ValueError, match=r"program|variable|NUL"):
        program_request(program, URL, stdin=None)


def test_form_of_globusrun() -> None:
    spec = with_gass(rsl.parse("&(executable=/bin/date)(StdErr=/tmp/e)"), URL)
    assert rsl.unparse(spec) == (
        '&("rsl_substitution" = ("GLOBUSRUN_GASS_URL" "https://h:1" ) )'
        '("stdout" = $("GLOBUSRUN_GASS_URL") # "/dev/stdout" )'
        '("executable" = "/bin/date" )("StdErr" = "/tmp/e" )'
    )


def test_stored_output_only_where_nothing_is_named() -> None:
    found = describe(
        rsl.unparse(with_stored_output(rsl.parse("&(executable=a)(stdout=/x)"))), SYMBOLS
    )
    assert found.stdout[0].url == "/x"
    assert found.stderr[0].url == "x-gass-cache://https://h:2/3/4/stderr"
    assert found.stderr[0].tag == "anExtraTag"


def test_restart_keeps_its_streams() -> None:
    spec = rsl.parse("&(restart=https://h:1/2/3/)")
    assert with_stored_output(spec) is spec


def test_single_relation_becomes_a_conjunction() -> None:
    spec = with_stored_output(rsl.parse("executable=/bin/date"))
    assert describe(rsl.unparse(spec), SYMBOLS).executable == "/bin/date"


def test_dry_run() -> None:
    spec = with_dry_run(rsl.parse("&(executable=a)"))
    assert describe(rsl.unparse(spec), SYMBOLS).dry_run
    assert with_dry_run(spec) is spec


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("&(executable=a)", None),
        ("&(user_name=bob)(executable=a)", "bob"),
        ("&(UserName=bob)", "bob"),
        ("&(username=$(X))", None),
        ("&(username=a b)", None),
    ],
)
def test_account_for_the_request_line(text: str, user: str | None) -> None:
    assert user_of(rsl.parse(text)) == user
