"""vLLM's own parser of arguments."""

import json
import subprocess

import pytest

from gearshift.settings import environment_for_vllm

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.tool_parsers import ToolParserManager
from vllm.reasoning import ReasoningParserManager
print(json.dumps({
    "tool": sorted(ToolParserManager.list_registered()),
    "reasoning": sorted(ReasoningParserManager.list_registered()),
}), file=sys.__stderr__, flush=True)
for line in sys.stdin:
    parser = make_arg_parser(FlexibleArgumentParser())
    found = vars(parser.parse_args(json.loads(line)))
    print(json.dumps(found, default=repr), file=sys.__stderr__, flush=True)
"""


@pytest.fixture(scope="session")
def _vllm(engine_python):
    """A process that has vLLM imported and parses one command a line."""
    environment = environment_for_vllm() | {"VLLM_LOGGING_LEVEL": "ERROR"}
    child = subprocess.Popen(
        [engine_python, "-W", "ignore", "-c", PARSE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    names = json.loads(_line(child))
    yield child, names
    child.stdin.close()
    child.wait(20)
    child.stderr.close()


def _line(child):
    """Its next line that is ours: JSON."""
    said = []
    for line in child.stderr:
        if line.startswith("{"):
            return line
        said.append(line)
    raise AssertionError("vLLM's parser ended: " + "".join(said))


@pytest.fixture
def vllm_parses(_vllm):
    """What vLLM's own parser makes of the arguments after `serve`."""

    def parse(commands):
        found = []
        for arguments in commands:
            _vllm[0].stdin.write(json.dumps(arguments) + "\n")
            _vllm[0].stdin.flush()
            found.append(json.loads(_line(_vllm[0])))
        return found

    return parse


@pytest.fixture
def vllm_parser_names(_vllm):
    return _vllm[1]
