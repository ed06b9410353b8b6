"""Files changed at random: read, told of or refused in one line; none crashes, hangs, or gives a shot of no length."""

import pytest
from mutated_videos import mutated_files, read_all


@pytest.mark.parametrize(
    ("num_files", "seed"), [(24, 1), pytest.param(200, 0, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_no_file_breaks_the_reader(tmp_path, num_files, seed):
    outcomes = list(read_all(mutated_files(tmp_path, num_files, seed)))
    assert len(outcomes) == num_files
    failed = {outcome.key: outcome.traceback or outcome.error for outcome in outcomes if outcome.value is None}
    assert not failed
    results = {outcome.key: outcome.value[0] for outcome in outcomes}
    assert all(result == "whole" for key, result in results.items() if "rename" in key)
    assert {"refused", "told"} <= set(results.values())
