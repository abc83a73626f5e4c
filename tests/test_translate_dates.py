"""examples/translate_dates.py in a tiny setting: what it writes and says, not how well it learns."""

from __future__ import annotations

import datetime
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("babel")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

SCRIPT = Path(__file__).parent.parent / "examples" / "translate_dates.py"
TINY = ["--samples=300", "--test-samples=20", "--epochs=1", "--hidden=8", "--embedding=6", "--attention=5", "--rows=1"]
DAY = datetime.date(1987, 3, 5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more, and where the cores are shared the threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dates() -> ModuleType:
    spec = importlib.util.spec_from_file_location("translate_dates", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_trains_evaluates_and_translates(
    dates: ModuleType, cpu_path: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dates.main([*TINY, f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    assert (tmp_path / "model.pt").is_file()
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    for line in ("known    1=greedy", "unknown         3", "unknown        10", "unknown locale, beam 3"):
        assert line in printed

    translate = [f"--out={tmp_path}", "--beam=4", "--translate"]
    dates.main([*translate, "3 mars 1987", "--locale=fr"])
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[-1]) for line in lines]
    assert len(lines) == 4
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < 0

    dates.main([*translate, "3 ᚠmars 1987"])
    assert "has not met these characters and reads each as <unk>: ᚠ" in capsys.readouterr().out
    for arguments, message in (
        ([*translate, " \u200f"], "Nothing to translate"),
        ([*translate, "3 mars 1987", "--locale=xx"], "does not know the locale 'xx'. It knows: af am ar_EG"),
        ([f"--out={tmp_path / 'none'}", "--translate=3"], "No saved model at"),
    ):
        with pytest.raises(SystemExit, match=message):
            dates.main(arguments)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "model.pt", weights_only=True)["state_dict"]


def test_ctrl_c_saves_and_the_seed_decides(
    dates: ModuleType,
    cpu_path: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    cross_entropy = dates.F.cross_entropy

    def interrupted(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise KeyboardInterrupt
        return cross_entropy(*args)

    monkeypatch.setattr(dates, "F", type("F", (), {"cross_entropy": staticmethod(interrupted)}))
    saved = []
    for run, seed in enumerate((0, 0, 1)):
        dates.main([*TINY, f"--seed={seed}", f"--out={tmp_path / str(run)}"])
        assert "Stopped in training. The model as it was then is in" in capsys.readouterr().out
        saved.append(weights(tmp_path / str(run)))
    first, again, other = saved
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["predict.weight"], other["predict.weight"])

    dates.main([f"--out={tmp_path / '0'}", "--translate=3 mars 1987"])
    assert "log-probability" in capsys.readouterr().out


def test_greedy_and_the_score_are_what_teacher_forcing_says(dates: ModuleType, cpu_path: None) -> None:
    torch.manual_seed(0)
    samples = dates.draw_samples([DAY], 40, 0.25, 0)
    vocabulary = dates.Vocabulary.of(samples)
    data = dates.encode_samples(samples, vocabulary)
    model = dates.DateTranslator(len(vocabulary.tokens), 6, 8, 5).eval()
    decoded = dates.decode(model, data, 1)
    # Teacher forcing with what was decoded gives the same characters, and the same log-probability.
    with torch.no_grad():
        logits, weights = model(data.source, data.lengths, dates.late(decoded.sequences[:, 0]))
    written = torch.arange(dates.TARGET_LENGTH) < decoded.lengths
    assert torch.equal(logits.argmax(-1)[written], decoded.sequences[:, 0][written])
    torch.testing.assert_close(
        (logits.log_softmax(-1).amax(-1) * written).sum(-1), decoded.log_probs[:, 0], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        dates.score(model, data, decoded.sequences[:, 0], decoded.lengths[:, 0]), decoded.log_probs[:, 0]
    )
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "babel.py").write_text("raise ImportError(name='babel')")
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path({str(SCRIPT)!r})",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert 'babel, which is not installed: pip install -e ".[examples]"' in run.stderr
