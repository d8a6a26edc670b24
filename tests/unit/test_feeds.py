"""A feed visits every row once an epoch, can go on, and does not depend on the number of processes."""

from mmalign.feeds import Rows

ROWS = [{"prompt": i} for i in range(10)]


def take(feed: Rows, batches: int) -> list[int]:
    return [row for _ in range(batches) for row in next(feed)["prompt"]]


def test_an_epoch_visits_every_row_once():
    assert sorted(take(Rows(ROWS, 5, seed=0), 2)) == list(range(10))


def test_epochs_differ_and_seeds_differ():
    feed = Rows(ROWS, 10, seed=0)
    first, second = take(feed, 1), take(feed, 1)
    assert first != second
    assert take(Rows(ROWS, 10, seed=1), 1) != first
    assert take(Rows(ROWS, 10, seed=0), 1) == first


def test_it_goes_on_where_it_stopped():
    feed = Rows(ROWS, 3, seed=0)
    take(feed, 5)
    state = feed.state_dict()
    rest = take(feed, 4)
    other = Rows(ROWS, 3, seed=0)
    other.load_state_dict(state)
    assert take(other, 4) == rest


def test_two_processes_share_the_batch_that_one_would_have():
    alone = take(Rows(ROWS, 4, seed=0), 3)
    halves = [Rows(ROWS, 2, seed=0, rank=rank, world=2) for rank in (0, 1)]
    together = [row for _ in range(3) for half in halves for row in next(half)["prompt"]]
    assert together == alone


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(take(Rows(ROWS[:3], 6, seed=0), 1)) == [0, 0, 1, 1, 2, 2]


def test_looking_ahead_tells_the_rows_of_the_next_batches_and_takes_none():
    feed, other = Rows(ROWS, 3, seed=0), Rows(ROWS, 3, seed=0)
    assert list(feed.ahead(2)) == take(other, 2)
    assert sorted(feed.ahead(9)) == list(range(10))
    assert take(feed, 5) == take(Rows(ROWS, 3, seed=0), 5)
