"""A daemon that volunteers carries what others train: models down, sums up, over real sockets, with real training."""

from __future__ import annotations

from edgefl.daemon.create import create_application
from edgefl.daemon.daemon import Daemon
from edgefl.demo import digits
from edgefl.learning.application import Stage
from edgefl.overlay import children
from edgefl.overlay.tree_view import TreeView
from edgefl.wire import Role
from edgefl.wire.overlay import HelpWanted
from tests.daemon.fleet import Daemons, with_daemons


def place(daemon: Daemon, app: int) -> TreeView | None:
    return daemon.overlay.tree(app)


def below(daemon: Daemon, app: int) -> set[int]:
    view = place(daemon, app)
    return set() if view is None else {child.contact.node_id for child in view.children}


@with_daemons
async def test_a_helper_carries_the_rounds_of_members_that_nobody_can_dial(fleet: Daemons) -> None:
    division = digits.divide(3, 0)
    parts = digits.write_parts(division, fleet.directory)
    digits.build_artifacts("mlp", 0, fleet.directory / "artifacts")
    node = await fleet.start("node", data=parts[0])
    helper = await fleet.start("helper", role="helper")
    bystander = await fleet.start("bystander")
    leaves = [await fleet.start(f"leaf{n}", role="leaf", data=parts[n]) for n in (1, 2)]
    assert helper.overlay.contact.role is Role.HELPER
    assert {leaf.overlay.contact.role for leaf in leaves} == {Role.LEAF}
    recipe = digits.RECIPES["mlp"]
    options = {"rounds": 8, "batch": recipe.batch, "learning_rate": recipe.lr, "min_members": 3, "quorum": 1.0}
    given = {"name": "digits", "data": "digits", "local_epochs": 1, "held_back": 0.1, "deadline_s": 30.0, **options}
    advert = await create_application(node, fleet.directory / "artifacts", given)
    app = advert.decode_manifest().app_id
    for leaf in leaves:
        leaf.overlay.discover(leaf.effects.now)
    for other in (helper, bystander):
        await fleet.until(lambda other=other: advert in other.overlay.adverts(), "the application is known")

    # As if its places were few: the leaf that has to go is sent to the helper.
    children.ZONE_CHILDREN, before = 2, children.ZONE_CHILDREN
    try:
        await fleet.until(lambda: len(below(node, app)) == 2, "the leaves have taken every place")
        for daemon in (helper, bystander):
            daemon.on_message(node.overlay.contact, HelpWanted(app))
        await fleet.until(lambda: below(helper, app), "a leaf is below the helper")
    finally:
        children.ZONE_CHILDREN = before
    assert app not in bystander.learning.applications, "it does not volunteer"
    assert below(helper, app) <= {leaf.keys.node_id for leaf in leaves}  # both, if the other finds it cheaper, too
    mine = helper.learning.applications[app]
    await fleet.until(lambda: mine.ledger.finished, "the end")
    assert mine.stage is Stage.HELPER
    records = node.learning.applications[app].ledger.history.all()
    assert [record.participants for record in records[-3:]] == [3] * 3
    for leaf in leaves:
        await fleet.until(lambda leaf=leaf: leaf.learning.applications[app].ledger.finished, "everybody has it")
        assert leaf.learning.applications[app].ledger.model == mine.ledger.model
    assert await helper.disk.run(lambda store: store.applications()) == [], "a restart begins with nothing"

    forest = helper.overlay._forest
    forest._dismiss(forest.trees[app], helper.effects.now)
    helper.overlay._drain(helper.effects.now)
    assert app not in helper.learning.applications
    await fleet.until(lambda: not helper.disk._background, "the disk has done what it was told")
    artifacts = await helper.disk.run(lambda store: [store.has_blob(one.blob) for one in mine.manifest.artifacts])
    assert not any(artifacts), "nor does it keep what it no longer needs"
