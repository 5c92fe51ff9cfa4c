"""A short campaign in every run of the tests; `make faults` is the long one."""

import pytest

from tests.faults import campaign
from tests.faults.campaign import DATA_KILLS, KILLS, KINDS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A campaign before its first event: its runs are made once for all tests."""
    return campaign.prepared(tmp_path_factory.mktemp("campaign"))


def test_nothing_is_lost_and_nothing_wrong_passes(prepared, capfd):
    """Catches: a swap or a damage that ends in other bytes with exit code 0, in a traceback, or
    nowhere; a stage that refuses for ever what another one mends. Every kind of event once.
    """
    kinds = {*KILLS, *DATA_KILLS, *KINDS}
    found = campaign.run(prepared, seed=7, seconds=0, least=len(kinds))
    assert {event.kind for event in found.events} == kinds
    assert found.bad == []


def test_a_campaign_sees_what_is_wrong(prepared, monkeypatch):
    """Catches a campaign that cannot fail: here nobody compares what a manifest says of itself."""
    monkeypatch.setattr("ddpm_core.store.expected.Expected.refusal", lambda _self, _body: None)
    monkeypatch.setattr(
        campaign, "_endless", lambda _rng: iter(["copied: samples of two samplers"] * 4)
    )
    assert campaign.run(prepared, seed=0, seconds=0, least=4).bad
