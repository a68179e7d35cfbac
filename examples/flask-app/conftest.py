import pathlib
import sys

# The tests import the app from this folder, wherever pytest was started.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
