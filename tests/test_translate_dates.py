"""examples/translate_dates.py in a tiny setting: what it writes and says, not how well it learns."""

from __future__ import annotations

import datetime
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("babel")

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = ["--samples=300", "--test-samples=20", "--epochs=1", "--hidden=8", "--embedding=6", "--attention=5", "--rows=1"]
DAY = datetime.date(1987, 3, 5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, since matrices this small gain nothing from more; examples/ where imports are sought."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def dates(small: None) -> ModuleType:
    return importlib.import_module("translate_dates")


@pytest.mark.parametrize(
    ("locale", "style", "native", "expected"),
    [
        ("en_US", "short", False, "3/5/1987"),  # M/d/yy in CLDR
        ("en_GB", "short", False, "05/03/1987"),
        ("en_US", "full", False, "Thursday, March 5, 1987"),
        ("fr", "long", False, "5 mars 1987"),
        ("es", "long", False, "5 de marzo de 1987"),  # quoted literals
        ("eu", "long", False, "1987(e)ko martxoaren 5(a)"),  # quoted and bare literals side by side
        ("de", "short", False, "05.03.1987"),
        ("ko", "short", False, "1987. 3. 5."),
        ("zh", "full", True, "1987年3月5日星期四"),
        ("ru", "long", False, "5 марта 1987 г."),  # noqa: RUF001 (and CLDR has a narrow no-break space)
        ("ar_EG", "short", False, "٥/٣/١٩٨٧"),  # noqa: RUF001 (and CLDR has direction marks)
        ("ar_MA", "long", False, "5 مارس 1987"),
        ("fa", "short", True, "۱۹۸۷/۳/۵"),  # noqa: RUF001
        ("hi", "short", False, "5/3/1987"),
        ("hi", "long", True, "५ मार्च १९८७"),
        ("my", "short", False, "၅/၃/၁၉၈၇"),
    ],
)
def test_write_date(dates: ModuleType, locale: str, style: str, native: bool, expected: str) -> None:
    assert dates.write_date(DAY, locale, style, native) == expected


def test_no_style_writes_two_days_alike(dates: ModuleType) -> None:
    days = [datetime.date(2000, 1, 1) + datetime.timedelta(i) for i in range(366)]
    for locale in dates.LOCALES:
        for style in dates.STYLES:
            texts = {dates.write_date(day, locale, style) for day in days}
            assert len(texts) == len(days), (locale, style)
            assert dates.write_date(datetime.date(1900, 1, 1), locale, style) not in texts, (locale, style)


def test_days_are_split_before_they_are_written(dates: ModuleType) -> None:
    train, test = dates.split_days(0)
    assert len(train) + len(test) == 73_049
    assert not set(train) & set(test)
    assert dates.split_days(0) == (train, test)
    assert dates.split_days(1) != (train, test)
    isos = {day.isoformat() for day in test}
    assert not isos & {sample.iso for sample in dates.draw_samples(train, 500, 0.25, 0)}
    assert isos >= {sample.iso for sample in dates.draw_samples(test, 500, 0.25, 0)}


def test_skeletons(dates: ModuleType) -> None:
    samples = [
        ("en_US", "3/5/1987", "1987-03-05"),
        ("en_US", "4/6/1999", "1999-04-06"),
        (None, "5 mars 1987", "1987-03-05"),
    ]
    samples += [("es", f"{day}/8/2010", f"2010-08-{day}") for day in range(10, 20)]
    samples += [("es", f"{day}/9/2020", f"2020-09-{day}") for day in range(10, 20)]
    baseline = dates.Skeletons([dates.Sample(*sample) for sample in samples])
    for locale, text, iso in (
        ("en_US", "4/6/2001", "2001-04-06"),
        ("es", "4/6/2001", "2001-06-04"),
        (None, "4/6/2001", "2001-06-04"),  # as most are
        (None, "4/16/2001", "2001-04-16"),  # but here that is no date
        ("fr", "٧ mars 1902", "1902-03-07"),  # noqa: RUF001
        ("fr", "7 mai 1902", ""),
        ("fr", "31/31/1902", ""),
    ):
        assert baseline.write(locale, text) == iso


def test_trains_evaluates_and_translates(
    dates: ModuleType, cpu_path: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    dates.main([*TINY, f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    assert (tmp_path / "model.pt").is_file()
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    for line in (
        "known   skeletons",
        "known    1=greedy",
        "unknown         3",
        "unknown        10",
        "locale, beam 3: ",
    ):
        assert re.sub(" +", " ", line) in re.sub(" +", " ", printed)

    translate = [f"--out={tmp_path}", "--beam=4", "--translate"]
    dates.main([*translate, "3 mars 1987", "--locale=fr"])
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[-1]) for line in lines]
    assert len(lines) == 4
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < 0

    dates.main([*translate, "3 ᚠmars 1987"])
    assert "has not met these characters and reads each as unknown: ᚠ" in capsys.readouterr().out
    for arguments, message in (
        ([*translate, " \u200f"], "Nothing to translate"),
        ([f"--out={tmp_path / 'none'}", "--translate=3"], "No saved model at"),
    ):
        with pytest.raises(SystemExit, match=message):
            dates.main(arguments)
    with pytest.raises(SystemExit):
        dates.main([*translate, "3 mars 1987", "--locale=xx"])
    assert "--locale: invalid choice: 'xx'" in capsys.readouterr().err


def test_the_seed_decides(dates: ModuleType, cpu_path: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dates, "evaluate", lambda *_: None)
    monkeypatch.setattr(dates, "picture", lambda *_: None)
    saved = []
    for run, seed in enumerate((0, 0, 1)):
        dates.main([*TINY, f"--seed={seed}", f"--out={tmp_path / str(run)}"])
        saved.append(torch.load(tmp_path / str(run) / "model.pt", weights_only=True)["state_dict"])
    first, again, other = saved
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["predict.weight"], other["predict.weight"])


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "babel.py").write_text("raise ImportError(name='babel')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(EXAMPLES)!r}]; import translate_dates"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert 'babel, which is not installed: pip install -e ".[examples]"' in run.stderr
