"""Where a data set's raw files are published: a record of Zenodo (or of a server that speaks alike), or addresses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from pipeline.config.spec import Spec

_ADDRESS = Field(pattern=r"^https?://")
_CHECKSUM = Field(None, pattern=r"^(md5|sha1|sha256|sha512):[0-9a-fA-F]+$", description="such as md5:0123…")


class AddressSpec(Spec):
    """One published file."""

    url: Annotated[str, _ADDRESS]
    checksum: Annotated[str | None, _CHECKSUM] = None


class DownloadSpec(Spec):
    """What `caloforge download` fetches into the folder where `files` looks."""

    record: str | None = Field(None, pattern=r"^\d+$", description="number of the record")
    files: tuple[str, ...] = Field(("*",), description="pattern(s) of the names of the record's files")
    base_url: Annotated[str, _ADDRESS] = "https://zenodo.org"
    urls: tuple[AddressSpec, ...] = Field((), description="addresses, where there is no record")

    @field_validator("record", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> DownloadSpec:
        if (self.record is None) == (not self.urls):
            raise ValueError("download: expected 'record' or 'urls', one of them; got both or neither")
        return self
