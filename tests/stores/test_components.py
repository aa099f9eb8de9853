"""Principal components against scikit-learn's PCA, kept in a file, and projected streams."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
from sklearn.decomposition import PCA
from store_samples import GRID

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, WeightsError
from vidloc.stores.base import StreamSpec, create_store, open_store
from vidloc.stores.components import add_fitted, add_projected, load_components

CLIP = StreamSpec(
    name="clip", kind="clip", fields={"features": FieldSpec(row_shape=(6,), dtype="float32")}, weights_sha256="ab" * 32
)
MAPS = CLIP.model_copy(update={"name": "maps", "fields": {"features": FieldSpec(row_shape=(2, 6), dtype="float32")}})


@pytest.fixture
def filled(tmp_path):
    store_path = tmp_path / "feats.zarr"
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((6, 6)) * [9, 4, 2, 1, 0.1, 0.1]
    with create_store(store_path) as writer:
        writer.add_stream(CLIP)
        writer.add_stream(MAPS)
        for item in "abc":
            rows = (rng.standard_normal((40, 6)) @ mix.T + 3).astype(np.float32)
            writer.write("clip", item, Rows.dense(features=rows), GRID)
            writer.write("maps", item, Rows.dense(features=np.stack([rows, rows], axis=1)), GRID)
            writer.commit(item)
        writer.mark("clip", "d", "failed", "no frames")
        writer.commit("d")
    return store_path


def rows_of(path, stream, items="abc"):
    with open_store(path) as store:
        return np.concatenate([store.read_field(stream, item) for item in items])


def test_components_are_those_of_an_exact_fit(filled, tmp_path):
    calls = []
    report = add_fitted(
        filled, "clip", "small", 3, save=tmp_path / "pca", progress=lambda done, total: calls.append((done, total))
    )
    exact = PCA(3, svd_solver="full").fit(rows_of(filled, "clip").astype(np.float64))
    np.testing.assert_allclose(report.components.explained_variance_ratio, exact.explained_variance_ratio_, atol=1e-9)
    wanted = exact.transform(rows_of(filled, "clip").astype(np.float64))
    found = rows_of(filled, "small")
    assert found.shape == (120, 3)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=1e-4, atol=1e-4)
    assert calls[0] == (120, 120)
    assert report.derived.reasons == {"d": "stream 'clip': no frames"}


def test_a_fit_in_pieces_is_near_the_exact_one(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("vidloc.stores.components._BATCH_VECTORS", 16)
    monkeypatch.setattr("vidloc.stores.row_operations.BLOCK_VALUES", 60)
    report = add_fitted(filled, "clip", "small", 3, save=tmp_path / "pca")
    exact = PCA(3, svd_solver="full").fit(rows_of(filled, "clip").astype(np.float64))
    np.testing.assert_allclose(report.components.mean, exact.mean_, atol=1e-9)
    along = np.abs((report.components.components * exact.components_).sum(axis=1))
    assert (along > 0.99).all()


def test_the_same_rows_give_the_same_components_which_the_stream_names(filled, tmp_path):
    reports = [
        add_fitted(filled, "clip", f"small{k}", 2, save=tmp_path / f"pca{k}", whiten=bool(k), out=tmp_path / "out.zarr")
        for k in range(2)
    ]
    assert len({report.components.sha256() for report in reports}) == 1
    white = rows_of(tmp_path / "out.zarr", "small1")
    np.testing.assert_allclose(white.std(axis=0, ddof=1), 1, atol=1e-4)
    with open_store(tmp_path / "out.zarr") as store:
        spec = store.streams()["small1"]
        assert spec.options["components_sha256"] == reports[0].components.sha256()
        assert (spec.encoder, spec.options["whiten"], spec.weights_sha256) == ("derived:pca", True, "ab" * 32)
        assert spec.options["parents"]["clip"]["weights_sha256"] == "ab" * 32


def test_components_of_some_items_are_used_for_others(filled, tmp_path):
    file = tmp_path / "pca.safetensors"
    add_fitted(filled, "clip", "small", 2, save=file, items=["a", "b"])
    exact = PCA(2, svd_solver="full").fit(rows_of(filled, "clip", "ab").astype(np.float64))
    np.testing.assert_allclose(load_components(file).mean, exact.mean_, atol=1e-9)
    add_projected(filled, "clip", "again", file)
    assert np.array_equal(rows_of(filled, "again"), rows_of(filled, "small"))
    add_projected(filled, "maps", "flat", file)  # each position by itself
    assert np.array_equal(rows_of(filled, "flat")[:, 1], rows_of(filled, "small"))


def test_a_file_of_other_components_is_kept(filled, tmp_path):
    file = tmp_path / "pca.safetensors"
    add_fitted(filled, "clip", "small", 2, save=file)
    assert add_fitted(filled, "clip", "small", 2, save=file).derived.num_made == 0
    with pytest.raises(WeightsError, match="exists and holds other components"):
        add_fitted(filled, "clip", "three", 3, save=file)


def test_what_cannot_be_fitted_or_read_is_said(filled, tmp_path):
    save = tmp_path / "pca"
    with pytest.raises(OptionError, match="have 6 channels, fewer than 7 components"):
        add_fitted(filled, "clip", "x", 7, save=save)
    with pytest.raises(OptionError, match="3 components need as many vectors, 'clip' has 0 to fit to"):
        add_fitted(filled, "clip", "x", 3, save=save, items=["d"])
    assert not save.exists()
    with pytest.raises(WeightsError, match="components cannot be read from"):
        add_projected(filled, "clip", "x", save)
    save.write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="components cannot be read from"):
        load_components(save)
    numbers = np.ones((2, 5))
    good = {"components": numbers, "mean": numbers[0], "explained_variance": numbers[:, 0]}
    for ratios, message in ((numbers[0], "do not fit"), (numbers[:, 0] * np.nan, "not finite")):
        save.write_bytes(safetensors.numpy.save({**good, "explained_variance_ratio": np.ascontiguousarray(ratios)}))
        with pytest.raises(WeightsError, match=message):
            load_components(save)
    save.write_bytes(safetensors.numpy.save({"mean": numbers}))
    with pytest.raises(WeightsError, match="holds mean, expected float64 components"):
        load_components(save)
    save.write_bytes(safetensors.numpy.save({**good, "explained_variance_ratio": numbers[:, 0].copy()}))
    with pytest.raises(OptionError, match=r"are \[6\], but the components were fitted to vectors of 5 numbers"):
        add_projected(filled, "clip", "x", save)
