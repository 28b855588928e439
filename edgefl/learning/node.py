"""All applications of one device: which it takes part in, and which event belongs to which."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.errors import EdgeflError
from edgefl.learning.effects import LearningEffects, Prepared, Progress, Tag, Token, TrainResult
from edgefl.learning.manifest import check_manifest
from edgefl.learning.together import Together, parse_together
from edgefl.wire import Contact, Message
from edgefl.wire.application import Advert, AppState, Manifest
from edgefl.wire.blob import BlobRef

if TYPE_CHECKING:
    from edgefl.effects import TimerKey
    from edgefl.learning.application import Application, Forest

MAX_APPLICATIONS = 64
"""Applications that one device takes part in at once; further ones are listed as refused."""

PUBLISH_S = 60.0
"""The root and the owner's device renew an application's advert this often (it expires after 180 s)."""


class Part(Enum):
    """What this device does about an application."""

    JOIN = "join"
    OBSERVE = "observe"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the device owner's policy to a manifest, with the reason that `edgefl app list` shows."""

    part: Part
    reason: str = ""


Policy = Callable[[Manifest], Decision]


class Learning:
    """Dispatches events to applications. Pure, like everything in this room."""

    def __init__(self, forest: Forest, effects: LearningEffects, policy: Policy) -> None:
        self.forest = forest
        self.effects = effects
        self.policy = policy
        self.applications: dict[int, Application] = {}
        self.ignored: dict[int, str] = {}
        self._together: dict[tuple[bytes, str], Together] = {}  # by owner and name, while there is one on this device
        self.unknown_messages = 0

    def on_advert(self, advert: Advert, now: float) -> None:
        """A verified advert, new or newer than the known one."""
        try:
            manifest = advert.decode_manifest()
            check_manifest(manifest)
        except EdgeflError as error:
            self._ignore(advert, error.cause)
            return
        known = self.applications.get(manifest.app_id)
        if known is not None:
            known.on_advert(advert, now)
            if not known.helper:
                return
        decision = self.policy(manifest)
        if known is not None and decision.part is Part.IGNORE:
            return
        if decision.part is Part.IGNORE:
            self._ignore(advert, decision.reason)
        else:
            self.take_part(advert, now, observer=decision.part is Part.OBSERVE)

    def take_part(
        self,
        advert: Advert,
        now: float,
        *,
        observer: bool = False,
        owner: bool = False,
        helper: bool = False,
        progress: Progress | None = None,
    ) -> Application | None:
        """Start with an application: decided by the policy, asked for by the user, or remembered from before a restart.
        Who only helped with it so far becomes what is asked now.

        Returns None when the device has its fill of applications.
        """
        from edgefl.learning.topologies import kind_of  # numpy comes with it: only when there is something to do

        app = kind_of(advert.decode_manifest())(
            advert, self.forest, self.effects, observer=observer, owner=owner, helper=helper, progress=progress
        )
        known = self.applications.get(app.id)
        if known is not None and (helper or not known.helper):
            return known
        self.drop(app.id, now)
        if len(self.applications) >= MAX_APPLICATIONS:
            self._ignore(advert, f"this device takes part in {MAX_APPLICATIONS} applications already")
            return None
        self.ignored.pop(app.id, None)
        self.applications[app.id] = app
        self._share(app)
        self.effects.set_timer(("learning", app.id, "publish"), now + PUBLISH_S)
        app.start(now)
        return app

    def drop(self, app_id: int, now: float) -> None:
        """Stop taking part."""
        app = self.applications.pop(app_id, None)
        if app is not None:
            self.effects.cancel_timer(("learning", app_id, "publish"))
            app.stop(now)
            self._together = {key: group for key, group in self._together.items() if len(group)}

    def _share(self, app: Application) -> None:
        """Let it train in turn with those applications of its owner that it names."""
        group = parse_together(app.manifest.together)
        if group is not None and app.trains:
            key = (app.manifest.owner, group[0])
            app.share_with(self._together.setdefault(key, Together(self.forest.contact.node_id)))

    def on_help_wanted(self, app_id: int, now: float) -> None:
        """This device volunteers, and the application's members do not have places enough in their tree."""
        for advert in self.forest.adverts():
            if advert.state is AppState.STOPPED:
                continue
            try:
                manifest = advert.decode_manifest()
                if manifest.app_id == app_id:
                    check_manifest(manifest)
                    self.take_part(advert, now, helper=True)
                    return
            except EdgeflError:
                continue

    def on_dismissed(self, app_id: int, now: float) -> None:
        """This device is not needed as a helper any more."""
        app = self.applications.get(app_id)
        if app is not None and app.helper:
            self.drop(app_id, now)

    def _ignore(self, advert: Advert, reason: str) -> None:
        try:
            app_id = advert.decode_manifest().app_id
        except EdgeflError:
            return
        if len(self.ignored) >= MAX_APPLICATIONS:
            del self.ignored[next(iter(self.ignored))]
        self.ignored[app_id] = reason

    def on_root(self, app: int, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_root(now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_parent(parent, now)

    def on_orphaned(self, app: int, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_orphaned(now)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_child(child, observer, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_child_gone(child, now)

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        """False when the message belongs to no application of this device."""
        app = self.applications.get(getattr(message, "app", -1))
        if app is None:
            self.unknown_messages += 1
            return False
        app.on_message(sender, message, now)
        return True

    def on_bulk(self, sender: Contact, message: Message, data: Any, now: float) -> bool:
        """A message with a second frame, which is only read, and only now. False when it belongs to nobody here."""
        app = self.applications.get(getattr(message, "app", -1))
        if app is None:
            self.unknown_messages += 1
            return False
        app.on_bulk(sender, message, data, now)
        return True

    def on_timer(self, key: TimerKey, now: float) -> bool:
        """False when the timer is not learning's."""
        if len(key) != 3 or key[0] != "learning":
            return False
        _, app_id, name = key
        app = self.applications.get(app_id) if isinstance(app_id, int) else None
        if app is not None:
            if name == "publish":
                self._publish(app, now)
            else:
                app.on_timer(str(name), now)
        return True

    def _publish(self, app: Application, now: float) -> None:
        """Renew the advert, with this device as the one who holds the artifacts."""
        self.effects.set_timer(("learning", app.id, "publish"), now + PUBLISH_S)
        tree = app.tree
        if app.owner or (tree is not None and tree.is_root):
            advert = app.advert
            renewed = Advert(advert.manifest, advert.version, advert.state, advert.signature, self.forest.contact)
            self.forest.publish(renewed, now)

    def on_prepared(self, app: int, prepared: Prepared, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_prepared(prepared, now)
            if prepared.model is None and not prepared.retry:
                self.on_dismissed(app, now)  # a helper that cannot even read the application is none

    def on_trained(self, app: int, tag: Tag, result: TrainResult | None, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_trained(tag, result, now)

    def on_fetched(self, app: int, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_fetched(token, blob, data, now)
        elif data is not None:
            self.effects.discard(app, blob)

    def on_kept(self, app: int, token: Token, blob: BlobRef, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_kept(token, blob, now)
        else:
            self.effects.discard(app, blob)

    def on_not_kept(self, app: int, token: Token, problem: str, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_not_kept(token, problem, now)

    def on_recalled(self, app: int, token: Token, data: Any, now: float) -> None:
        if app in self.applications:
            self.applications[app].on_recalled(token, data, now)
