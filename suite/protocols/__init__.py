"""From a policy to the network that is measured: protocols of a search, and post-steps of its winners."""

from suite.plugins import POST_STEPS, PROTOCOLS
from suite.protocols.protocol import NoPostStep, PostStep, Preparation, Prepared, Protocol, Request

__all__ = [
    "NoPostStep",
    "PostStep",
    "Preparation",
    "Prepared",
    "Protocol",
    "Request",
    "parse_post_step",
    "protocol_for",
]


def parse_post_step(text: str, steps: int | None = None) -> PostStep:
    """Make a post-step from text such as ``sqwa:captures=3:noise=false``; its options override ``steps``.

    Raises:
        BitcertError: If the name, an option or a value is unknown.
    """
    step: PostStep = POST_STEPS.make(text, **({} if steps is None else {"steps": steps}))
    return step


def protocol_for(text: str | None, steps: int) -> Protocol:
    """Make a protocol from its name and options; without a name, ``finetune`` if there are steps, else ``ptq``."""
    protocol: Protocol = PROTOCOLS.make(text or ("finetune" if steps else "ptq"))
    return protocol
