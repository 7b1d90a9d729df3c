"""What paddock.toml says of a node reaches its agent."""

from paddock.base.statedir import StateDir
from paddock.service import state, table

CONFIG = """
[[node]]
name = "n1"
driver = "fake"
accelerator = "tcg"
warm = "always"
warm_budget_gib = 7
[[node]]
name = "n2"
first_ssh_port = 2300
"""


def test_a_node_tells_its_agent_what_was_chosen(directory: StateDir) -> None:
    state.make(directory)
    directory.config.write_text(CONFIG)
    plan = table.read_plan(directory)
    first, second = (options(agent.argv) for agent in table.agents(directory, plan))
    assert first["--state-dir"] == str(directory.nodes / "n1")
    chosen = ("--driver", "--accelerator", "--warm", "--warm-budget-gib")
    assert [first[name] for name in chosen] == ["fake", "tcg", "always", "7"]
    assert [second[name] for name in chosen] == ["qemu", "auto", "second-use", "20"]


def options(argv: tuple[str, ...]) -> dict[str, str]:
    words = argv[3:]
    return dict(zip(words[::2], words[1::2], strict=True))
