"""The restoration tasks: their names, and the words that describe each degradation to a language model."""

from __future__ import annotations

from llicm_cli.errors import UsageError

CLEAN = "clean"
AUTO = "auto"
NONE = "none"
MOST_PASSES = 4  # of the head over a picture

PROMPTS: dict[str, tuple[str, ...]] = {
    "deblur": ("a blurry photo", "a photo with motion blur", "an out of focus photo"),
    "dehaze": ("a hazy photo", "a photo taken in fog", "a photo washed out by haze"),
    "dejpeg": ("a photo with JPEG compression artifacts", "a blocky compressed photo", "a low quality JPEG"),
    "denoise": ("a noisy photo", "a grainy photo with sensor noise", "a photo with strong noise"),
    "derain": ("a photo taken in the rain", "a photo with rain streaks", "a rainy photo"),
    "deraindrop": (
        "a photo through a wet window",
        "a photo with raindrops on the lens",
        "water drops on glass",
    ),
    "deshadow": ("a photo with a cast shadow", "a shadowed photo", "a photo partly in shadow"),
    "desnow": ("a photo taken in falling snow", "a snowy photo with snowflakes", "a photo in a snowstorm"),
    "inpaint": ("a photo with missing parts", "a photo with blank holes", "a damaged photo with scratches"),
    "lowlight": ("a dark photo", "an underexposed photo", "a low light photo taken at night"),
    CLEAN: ("a clean photo", "a sharp photo of high quality", "a good photo"),
}
"""Phrases for each degradation, and for none at all; the first names it best."""

TASKS = tuple(name for name in PROMPTS if name != CLEAN)
CLASSES = tuple(PROMPTS)


def check_task(name: str) -> None:
    """Raise UsageError unless it is one of the ten tasks."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")


def parse_tasks(text: str) -> tuple[str, ...]:
    """Tasks to do one after the other, from a list separated by commas; ``none`` gives no task.

    Raises:
        UsageError: an unknown name, or ``none`` among others.
    """
    names = tuple(name.strip() for name in text.split(","))
    if names == (NONE,):
        return ()
    if NONE in names:
        raise UsageError(f"{NONE} stands alone, not among other tasks")
    for name in names:
        if name not in (*TASKS, AUTO):
            known = ", ".join((*TASKS, AUTO, NONE))
            raise UsageError(f"unknown task {name!r}; the tasks are {known}")
    return names
