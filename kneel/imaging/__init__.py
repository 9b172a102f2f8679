"""Films in, grey levels with millimetres out. Numpy, pydicom, OpenCV and Pillow only: importing this loads no torch."""

from kneel.imaging.dicom import read_radiograph
from kneel.imaging.radiograph import Radiograph, RadiographError, normalize_percentiles

__all__ = ["Radiograph", "RadiographError", "normalize_percentiles", "read_radiograph"]
