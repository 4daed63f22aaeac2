"""Progress in a log file: what is known, and no more."""

import logging

from featx.run import progress


def test_the_time_before_the_first_images_is_no_part_of_the_pace(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    import ipykernel  # noqa: F401 - what is merely installed and imported makes no notebook

    caplog.set_level(logging.INFO, "featx")
    show = progress.Progress(1000, "extract")
    for now, done in ((20, 0), (40, 100), (50, 200), (60, 500)):  # noqa: B007
        show.update(done)
    assert [record.getMessage() for record in caplog.records] == [
        "extract: 0 of 1000 images",
        "extract: 100 of 1000 images",
        "extract: 500 of 1000 images, 20.0 img/s, about 25 s left",
    ]
