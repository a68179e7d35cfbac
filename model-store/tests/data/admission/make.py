"""Makes the models in this folder. Run with numpy 2, pandas 2 or 3, scikit-learn 1 and joblib 1.

They are what these libraries write: pickles of every protocol, joblib's arrays between the
opcodes, joblib's compressions, and NumPy's archives.
"""
import io
import pathlib
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

warnings.filterwarnings("ignore")
here = pathlib.Path(__file__).parent
X, y = make_classification(30, 5, random_state=0)
frame = pd.DataFrame(X, columns=list("abcde")).assign(f=["x", "y", "z"] * 10)

models = {
    "logistic": LogisticRegression().fit(X, y),
    "forest": RandomForestClassifier(2, max_depth=3, random_state=0).fit(X, y),
    "boosting": HistGradientBoostingClassifier(max_iter=2).fit(X, y),
    "neighbors": KNeighborsClassifier(algorithm="kd_tree").fit(X, y),
    "search": GridSearchCV(SGDClassifier(), {"alpha": [0.1, 1]}, cv=2).fit(X, y),
    "pipeline": make_pipeline(
        ColumnTransformer([
            ("n", make_pipeline(FunctionTransformer(np.log1p), StandardScaler()), list("abcde")),
            ("c", OneHotEncoder(), ["f"]),
        ]),
        LogisticRegression(),
    ).fit(frame.assign(**{c: frame[c].abs() for c in "abcde"}), y),
    "frame": frame.head(2).assign(when=pd.date_range("2020", periods=2), kind=pd.Categorical(["u", "v"])),
    "random": [np.random.RandomState(0), np.random.default_rng(0)],
    "objects": np.array([1, "a", None, {"k": [1.5]}], dtype=object),
    "fields": np.zeros(3, dtype=[("a", "f4"), ("b", "i8", (2,)), ("c", [("x", "u1")])]),
}

for name, model in models.items():
    for protocol in (0, 2, 5) if name in ("logistic", "frame") else (4,):
        (here / f"{name}.{protocol}.pkl").write_bytes(pickle.dumps(model, protocol))
    joblib.dump([model, np.arange(3.0)], here / f"{name}.joblib")
for kind in ("zlib", "gzip", "xz", "bz2", "lzma"):
    joblib.dump(models["logistic"], here / f"logistic.{kind}.joblib", compress=(kind, 3))
np.savez(here / "plain.npz", a=models["fields"], b=np.arange(10))
np.savez_compressed(here / "packed.npz", a=models["objects"], b=np.arange(10))
