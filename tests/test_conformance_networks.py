"""Bitcert's own certifiers, protocols and post-steps pass the kits that it ships."""

from __future__ import annotations

import pytest

from suite.certify.certifier import Certifier
from suite.plugins import CERTIFIERS, POST_STEPS, PROTOCOLS
from suite.problems import load_problem
from suite.protocols.protocol import Preparation
from suite.testing.certifiers import CertifierConformance, HalfSpace, NoiselessCertifierConformance
from suite.testing.protocols import PreparationConformance
from suite.workbench import Workbench, workbench_of


class TestRanking(CertifierConformance):
    name = "ranking"

    def make(self) -> Certifier:
        made: Certifier = CERTIFIERS.make(self.name)
        return made


class TestFixed(TestRanking):
    name = "fixed"


class TestIRS(TestRanking):
    name = "irs"


class TestIncremental(TestRanking):
    name = "incremental"


class TestSequential(TestRanking):
    name = "sequential"


class TestAggregate(TestRanking):
    name = "aggregate"


class TestInterval(NoiselessCertifierConformance):
    name, complete = "interval", True  # a single layer, where bounds are exact

    def make(self) -> Certifier:
        made: Certifier = CERTIFIERS.make(self.name)
        return made


class TestVerify(TestInterval):
    name = "verify"


class TestPTQ(PreparationConformance):
    name = "ptq"

    def make(self) -> Preparation:
        made: Preparation = PROTOCOLS.make(self.name)
        return made


class TestFinetune(TestPTQ):
    name = "finetune"


class TestSupernet(TestPTQ):
    name = "supernet"


class TestNoPostStep(PreparationConformance):
    text = "none"

    def make(self) -> Preparation:
        made: Preparation = POST_STEPS.make(self.text)
        return made


class TestQAT(TestNoPostStep):
    text = "qat:steps=4"


class TestSWA(TestNoPostStep):
    text = "swa:steps=4:captures=2"


class TestSQWA(TestNoPostStep):
    text = "sqwa:steps=4:captures=2"


class TestInherited(TestNoPostStep):
    text = "inherited"


class TestSPEQ(TestNoPostStep):
    text = "speq:steps=4"


class TestSoft(TestNoPostStep):
    text = "soft:steps=4:samples=2"


class TestRadius(TestNoPostStep):
    text = "radius:steps=4:samples=2"


class TestQAIBP(TestNoPostStep):
    text = "qa-ibp:steps=4"

    def bench(self) -> Workbench:
        return workbench_of(load_problem("digits-linf", budget="w3a3"), "a conformance test")


class TestSWAMasked(TestNoPostStep):
    text = "swa-masked:steps=4:captures=2"


def test_a_certifier_that_promises_too_much_does_not_pass() -> None:
    from dataclasses import replace

    class Boastful(TestFixed):
        def measured(self, seed):  # type: ignore[no-untyped-def]
            found, rows = super().measured(seed)
            assert found.certificates is not None
            return replace(found, certificates=replace(found.certificates, radius=found.certificates.radius * 3)), rows

    assert HalfSpace().border == 0
    with pytest.raises(AssertionError):
        Boastful().test_certificates_are_sound()
