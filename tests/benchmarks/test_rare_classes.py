"""What the benchmark of rare classes is measured on."""

from benchmarks.rare_classes import LARGE, N_WRONG, clusters, found


def test_wrong_labels_are_of_large_classes_and_the_small_ones_are_right():
    _, labels, wrong = clusters((*LARGE, 2, 1), 0)
    _, other, _ = clusters((*LARGE, 2, 1), 1)
    assert len(wrong) == N_WRONG
    assert max(wrong) < sum(LARGE)
    assert labels[sum(LARGE) :].tolist() == other[sum(LARGE) :].tolist() == [3, 3, 4]


def test_scores_that_do_not_see_classes_find_most_wrong_labels():
    by_score = found((*LARGE, 2, 1), 0)
    assert all(0 <= count <= N_WRONG for count in by_score.values())
    assert by_score["ridge_leave_one_out"] > N_WRONG / 2
    assert by_score["wrong_label"] > N_WRONG / 2
