"""A phantom film as a DX For Presentation object, without a clock: the same film gives the same bytes."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from kneel.phantom.render import Film


def dicom_bytes(film: Film, subject_id: str, seed: str, calibration: str) -> bytes:
    """Encode a film.

    Parameters
    ----------
    film : Film
        Pixels and truth.
    subject_id : str
        Goes into PatientID.
    seed : str
        UIDs are hashed from it and the subject.
    calibration : {"detector", "magnification", "calibrated"}
        Where a reader finds the film's spacing: in ImagerPixelSpacing; there, times
        EstimatedRadiographicMagnificationFactor; or in PixelSpacing.

    Returns
    -------
    bytes
        A DICOM file.

    Raises
    ------
    ValueError
        Unknown calibration.
    """
    data = Dataset()
    _add_identity(data, film, subject_id, seed)
    _add_acquisition(data, film)
    _add_spacing(data, film.spec.spacing_mm, calibration)
    _add_pixels(data, film)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _add_identity(data: Dataset, film: Film, subject_id: str, seed: str) -> None:
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(data, name, generate_uid(entropy_srcs=["kneel.phantom", seed, subject_id, name]))
    data.SpecificCharacterSet = "ISO_IR 100"
    data.PatientID = subject_id
    data.PatientName = f"PHANTOM^{subject_id}"
    data.Modality = "DX"
    data.Manufacturer = "kneel.phantom"
    data.PresentationIntentType = "FOR PRESENTATION"
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.SeriesNumber = data.InstanceNumber = "1"
    data.BurnedInAnnotation = "YES" if film.burned_in_text else "NO"
    # required to be present, allowed to be empty
    for name in (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyID",
        "PatientBirthDate",
        "PatientSex",
    ):
        setattr(data, name, "")


def _add_acquisition(data: Dataset, film: Film) -> None:
    sides = "".join(knee.side for knee in film.knees)
    data.ImageLaterality = "B" if sides == "RL" else sides
    data.BodyPartExamined = "KNEE"
    data.ViewPosition = "PA"
    # seen as from the front: the patient's right is at the picture's left
    data.PatientOrientation = ["L", "F"]
    data.AnatomicRegionSequence = Sequence([_code("72696002", "SCT", "Knee")])
    view = _code("272479007", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = Sequence()
    data.ViewCodeSequence = Sequence([view])
    data.AcquisitionContextSequence = Sequence()
    data.DetectorType = "DIRECT"
    data.PixelIntensityRelationship = "LIN" if film.exposure.linear else "LOG"
    data.PixelIntensityRelationshipSign = 1 if film.spec.photometric == "MONOCHROME1" else -1


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _add_spacing(data: Dataset, spacing_mm: float, calibration: str) -> None:
    if calibration == "detector":
        imager = spacing_mm
    elif calibration in ("magnification", "calibrated"):
        imager = round(spacing_mm * 1.05, 6)
        data.EstimatedRadiographicMagnificationFactor = "1.05"
    else:
        raise ValueError(f"calibration is {calibration!r}: must be 'detector', 'magnification' or 'calibrated'")
    data.ImagerPixelSpacing = [f"{imager:.6g}"] * 2
    if calibration == "calibrated":
        data.PixelSpacing = [f"{spacing_mm:.6g}"] * 2
        data.PixelSpacingCalibrationType = "GEOMETRY"
        data.PixelSpacingCalibrationDescription = "estimated radiographic magnification"


def _add_pixels(data: Dataset, film: Film) -> None:
    spec = film.spec
    data.Rows, data.Columns = film.pixels.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = spec.photometric
    data.PresentationLUTShape = "INVERSE" if spec.photometric == "MONOCHROME1" else "IDENTITY"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, spec.bits_stored, spec.bits_stored - 1
    data.PixelRepresentation = 0
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "US"
    data.WindowCenter, data.WindowWidth = str(1 << (spec.bits_stored - 1)), str(1 << spec.bits_stored)
    data.LossyImageCompression = "00"
    data.PixelData = film.pixels.astype("<u2").tobytes()
