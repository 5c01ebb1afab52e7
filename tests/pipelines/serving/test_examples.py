"""Test images for the page."""

from collections import Counter

from pipelines.serving.examples import COUNT, load_examples


def test_each_class_has_as_many_images_as_possible(store, monkeypatch):
    monkeypatch.chdir(store.folder)
    examples = load_examples("d1")
    counts = Counter(example.label for example in examples)
    assert len(examples) == COUNT and set(counts.values()) == {COUNT // 4}
    assert [example.label for example in examples[:4]] == ["cat", "dog", "eel", "fox"]
    for example in examples:  # the first pixel is the index in the test split
        assert example.label == ["cat", "dog", "eel", "fox"][example.pixels[0, 0, 0] % 4]


def test_without_the_data_there_are_no_examples(store, monkeypatch):
    monkeypatch.chdir(store.folder)
    assert load_examples("d2") == []
