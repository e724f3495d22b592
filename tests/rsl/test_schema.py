"""The attribute table and its checks (job-manager.md §3.3-3.5)."""

import pytest

import rsl
from rsl.schema import ATTRIBUTES, ROWS, Attribute, Kind, Phase, validate

# Column A and B of rsl.md §12.2 (job-manager.md §3.5) for everything in the table.
NUMBERS = """
arguments 50 134, directory 52 134, dryrun 53 134, environment 54 134, executable 55 134,
filecleanup 145 134, filestagein 141 134, filestageinshared 142 134, filestageout 143 134,
grammyjob 59 20, hostcount 56 35, jobtype 57 19, maxcputime 103 104, maxmemory 85 87,
maxtime 58 13, maxwalltime 101 102, minmemory 84 86, project 61 38, queue 62 37,
savestate 112 150, scratchdir 146 136, stderr 63 134, stderrposition 118 119, stdin 64 134,
stdout 65 134, stdoutposition 116 117
"""
# job-manager.md §3.4 has numbers of its own for these.
OWN_NUMBERS = """
count 14 14, twophase 114 114, proxytimeout 153 153, username 48 48, rslsubstitution 39 39,
librarypath 134 134
"""


def numbers(text: str) -> dict[str, tuple[int, int]]:
    rows = (row.split() for row in text.replace("\n", " ").split(","))
    return {name: (int(a), int(b)) for name, a, b in rows}


def refused(text: str, phase: Phase = Phase.SUBMIT) -> tuple[int, str]:
    with pytest.raises(rsl.RSLValidationError) as caught:
        validate(rsl.canonicalise(rsl.parse(text)), phase)
    assert str(caught.value) == caught.value.message
    return caught.value.code, caught.value.message


def test_error_numbers() -> None:
    table = {row.name: (row.type_error, row.value_error) for row in ROWS}
    assert table == numbers(NUMBERS) | numbers(OWN_NUMBERS)


def test_names_are_canonical_and_unique() -> None:
    assert len(ATTRIBUTES) == len(ROWS)
    assert all(rsl.canonical_name(row.spelling) == name for name, row in ATTRIBUTES.items())


def test_defaults() -> None:
    spec = validate(rsl.parse("&(executable=/bin/true)"), Phase.SUBMIT)
    assert rsl.unparse(spec) == (
        '&("directory" = $("HOME") )("stdin" = "/dev/null" )("stdout" = "/dev/null" )'
        '("stderr" = "/dev/null" )("count" = "1" )("jobtype" = "multiple" )'
        '("grammyjob" = "collective" )("dryrun" = "no" )'
        '("librarypath" = $("GLOBUS_LOCATION") # "/lib" )("executable" = "/bin/true" )'
    )


def test_given_values_replace_defaults() -> None:
    text = (
        "&(directory=/)(stdin=a)(stdout=a)(stderr=a)(count=1)(jobtype=mpi)(executable=a)"
        "(grammyjob=independent)(dryrun=yes)(librarypath=a)"
    )
    assert validate(rsl.parse(text), Phase.SUBMIT) == rsl.parse(text)


def test_update_gets_no_defaults() -> None:
    spec = rsl.parse("&(stdout=a)(stdoutposition=(any thing))")
    assert validate(spec, Phase.STDIO_UPDATE) == spec


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("&(foo=bar)", 1, 'the RSL attribute "foo" is not supported by the LRM adapter'),
        ('&("a b"=1)', 1, 'the RSL attribute "a b" is not supported by the LRM adapter'),
        ("&(count=1)", 81, 'the RSL attribute "executable" is missing'),
        (
            "&(executable=a)(count>1)",
            48,
            'the RSL operator ">" is not supported for the attribute "count"',
        ),
        ("&(stdout_position=0)", 138, 'invalid RSL attribute "stdoutposition" for submit'),
        (
            "&(job_type=foo)",
            19,
            (
                'the RSL attribute "jobtype" has the value "foo", which is not one of: '
                "single, multiple, mpi, condor"
            ),
        ),
        ("&(dry_run=yes no)", 53, 'the RSL attribute "dryrun" needs one value out of: yes, no'),
    ],
)
def test_messages(text: str, code: int, message: str) -> None:
    assert refused(text) == (code, message)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("&(foo>1)", 1),
        ("&(stdout_position>0)", 48),
        ("&(dry_run>maybe)", 48),
        ("&(foo=1)(count>1)", 1),
        ("&(count>1)(foo=1)", 48),
        ("&(job_type=x)(foo=1)", 19),
        ("&(foo=1)(job_type=x)", 1),
        ("&(job_type=x)(dry_run=x)", 19),
        ("&(dry_run=x)(job_type=x)", 134),
        ("&(dry_run=yes)(dry_run=x)", 134),
    ],
)
def test_first_broken_rule_wins(text: str, code: int) -> None:
    assert refused(text)[0] == code


@pytest.mark.parametrize(
    "text",
    ["executable=a", "|(executable=a)", "+(&(executable=a))", "&(executable=a)(&(count=1))"],
)
def test_only_one_conjunction_of_relations(text: str) -> None:
    assert refused(text)[0] == 48


@pytest.mark.parametrize("value", ["sing", "e", "SINGLE", '"single multiple"', '""'])
def test_allowed_values_match_exactly(value: str) -> None:
    assert refused(f"&(job_type={value})")[0] == 19


@pytest.mark.parametrize(
    "name",
    [
        "restart",
        "restart_contacts",
        "remote_io_url",
        "gass_cache",
        "save_job_description",
        "loglevel",
        "logpattern",
        "expiration",
        "paradyn",
        "start_time",
        "condor_submit",
        "nodes",
        "stdin_x",
    ],
)
def test_attributes_that_are_not_offered(name: str) -> None:
    assert refused(f"&(executable=a)({name}=x)")[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        "&(foo=1)",
        "&(executable=a)",
        "&(rsl_substitution=(A 1))",
        "&(stdout>a)",
        "|(stdout=a)",
        "stdout=a",
    ],
)
def test_update_with_anything_wrong(text: str) -> None:
    assert refused(text, Phase.STDIO_UPDATE)[0] == 48


def test_an_lrm_may_add_and_require_attributes() -> None:
    extra = Attribute("email_address", Kind.STRING, "whom to write", 134, 134, required=True)
    attributes = {**ATTRIBUTES, extra.name: extra}
    spec = rsl.parse("&(executable=a)(emailaddress=b)")
    assert "emailaddress" in rsl.unparse(validate(spec, Phase.SUBMIT, attributes))
    with pytest.raises(rsl.RSLValidationError) as caught:
        validate(rsl.parse("&(executable=a)"), Phase.SUBMIT, attributes)
    assert caught.value.code == 148


def test_messages_quote_input_briefly_and_printably() -> None:
    _, message = refused(f'&("{"n" * 500}\n\udcff"=1)')
    assert len(message) < 200
    _, message = refused('&(job_type="a\nb\udcff")')
    assert message.isprintable()
