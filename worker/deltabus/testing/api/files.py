"""`/files` and `/uploads`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from deltabus.testing.api.dialect import Dialect, refusal
from deltabus.testing.api.fault import abort
from deltabus.testing.api.form import Form, FormFile, read_form
from deltabus.testing.api.record import CURRENT
from deltabus.testing.api.store import PURPOSES, PendingUpload, Store, StoredFile

#: Seconds that a file may live, from and to.
_LIFE = (3600, 2592000)


class FileApi:
    """The handlers. A file's errors are the dialect's; everything else is OpenAI's."""

    def __init__(self, store: Store, dialect: Dialect, *, max_file_bytes: int, max_part_bytes: int) -> None:
        self._store = store
        self._dialect = dialect
        self._max_file = max_file_bytes
        self._max_part = max_part_bytes

    def routes(self) -> Iterator[web.RouteDef]:
        """The paths that there are."""
        if self._dialect.files:
            yield web.post("/files", self.upload)
            yield web.get("/files", self.list)
            yield web.get("/files/{id}", self.get)
            yield web.get("/files/{id}/content", self.content)
            yield web.delete("/files/{id}", self.delete)
        if self._dialect.files and self._dialect.uploads:
            yield web.post("/uploads", self.begin)
            yield web.post("/uploads/{id}/parts", self.part)
            yield web.post("/uploads/{id}/complete", self.complete)
            yield web.post("/uploads/{id}/cancel", self.cancel)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """`POST /files`."""
        form = await read_form(request, self._store, change=_miscount())
        CURRENT.get().body.update(form.fields)
        try:
            file = form.files["file"]
            filename = file.filename or "file"
        except KeyError:
            form.discard()
            return self._dialect.refusal(400, "'file' is a required property", param="file")
        if (refused := self._refuse(form, file, filename)) is not None:
            form.discard()
            return refused
        stored = self._store.keep(
            file.spool,
            filename=filename,
            purpose=form.fields["purpose"],
            media_type=file.media_type,
            expires_after=form.fields.get("expires_after"),
        )
        return web.json_response(self._dialect.file(stored.document()))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """`GET /files`."""
        query = request.query
        stored = [file for file in self._store.files.values() if query.get("purpose", file.purpose) == file.purpose]
        more = False
        if self._dialect.pages:
            if query.get("order", "desc") == "desc":
                stored.reverse()
            if after := query.get("after"):
                places = [place for place, file in enumerate(stored) if file.id == after]
                if not places:
                    return self._dialect.refusal(400, f"No such File object: {after}", param="after")
                stored = stored[places[0] + 1 :]
            limit = int(query.get("limit", "10000"))
            if not 1 <= limit <= 10000:
                return self._dialect.refusal(400, "limit must be between 1 and 10000", param="limit")
            more = len(stored) > limit
            stored = stored[:limit]
        listed: dict[str, Any] = {
            "object": "list",
            "data": [self._dialect.file(file.document()) for file in stored],
        }
        if self._dialect.pages:
            listed["first_id"] = stored[0].id if stored else None
            listed["last_id"] = stored[-1].id if stored else None
            listed["has_more"] = more
        return self._dialect.answer(listed)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """`GET /files/{id}`."""
        stored = self._store.files.get(request.match_info["id"])
        return self._missing(request) if stored is None else web.json_response(self._dialect.file(stored.document()))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """`GET /files/{id}/content`."""
        stored = self._store.files.get(request.match_info["id"])
        if stored is None:
            return self._missing(request)
        return await send_bytes(
            request,
            _read(stored.path),
            size=stored.size,
            media_type=stored.media_type or "application/octet-stream",
            filename=stored.filename,
        )

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /files/{id}`."""
        file_id = request.match_info["id"]
        if not self._store.delete(file_id):
            return self._missing(request)
        return self._dialect.answer({"id": file_id, "object": "file", "deleted": True})

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """`POST /uploads`."""
        body = CURRENT.get().body
        for name in ("filename", "purpose", "bytes", "mime_type"):
            if name not in body:
                return refusal(400, f"'{name}' is a required property", param=name)
        upload = PendingUpload(
            id=self._store.name("upload_"),
            filename=body["filename"],
            purpose=body["purpose"],
            media_type=body["mime_type"],
            size=body["bytes"],
            created_at=int(time.time()),
            expires_after=body.get("expires_after"),
        )
        with self._store.lock:
            self._store.uploads[upload.id] = upload
        return web.json_response(upload.document())

    async def part(self, request: web.Request) -> web.StreamResponse:
        """`POST /uploads/{id}/parts`."""
        upload = self._store.uploads.get(request.match_info["id"])
        if upload is None:
            return refusal(404, "No such Upload object", param="upload_id")
        form = await read_form(request, self._store, change=_miscount())
        if upload.status != "pending" or "data" not in form.files:
            form.discard()
            return refusal(400, "the upload takes no such part", param="data")
        spool = form.files["data"].spool
        if spool.size > self._max_part:
            form.discard()
            return refusal(413, f"a part has at most {self._max_part} bytes", param="data")
        part_id = self._store.name("part_")
        upload.parts[part_id] = spool.path
        return web.json_response(
            {"id": part_id, "object": "upload.part", "created_at": int(time.time()), "upload_id": upload.id}
        )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /uploads/{id}/complete`."""
        upload = self._store.uploads.get(request.match_info["id"])
        if upload is None or upload.status != "pending":
            return refusal(404, "No such Upload object", param="upload_id")
        part_ids = CURRENT.get().body.get("part_ids")
        if not isinstance(part_ids, list) or any(part not in upload.parts for part in part_ids):
            return refusal(400, "part_ids names parts that are not there", param="part_ids")
        spool = self._store.join([upload.parts[part] for part in part_ids])
        if spool.size != upload.size:
            spool.path.unlink()
            return refusal(400, f"the parts have {spool.size} bytes, not {upload.size}", param="part_ids")
        upload.status = "completed"
        self._store.drop(upload)
        stored = self._store.keep(
            spool,
            filename=upload.filename,
            purpose=upload.purpose,
            media_type=upload.media_type,
            expires_after=upload.expires_after,
        )
        return web.json_response(upload.document(self._dialect.file(stored.document())))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """`POST /uploads/{id}/cancel`."""
        upload = self._store.uploads.get(request.match_info["id"])
        if upload is None:
            return refusal(404, "No such Upload object", param="upload_id")
        if upload.status == "completed":
            return refusal(400, "the upload is complete", param="upload_id")
        upload.status = "cancelled"
        self._store.drop(upload)
        return web.json_response(upload.document())

    def _refuse(self, form: Form, file: FormFile, filename: str) -> web.StreamResponse | None:
        refuse = self._dialect.refusal
        purpose = form.fields.get("purpose")
        if not purpose:
            return refuse(400, "Purpose is not defined", param="purpose")
        if file.spool.size > self._max_file:
            return refuse(413, f"File size {file.spool.size} exceeds upload limit {self._max_file}", param="file")
        if self._dialect.unique_names and any(kept.filename == filename for kept in self._store.files.values()):
            return refuse(400, "File already exists")
        if self._dialect.plain_errors:
            return None
        if purpose not in PURPOSES:
            return refuse(400, f"'{purpose}' is not one of {list(PURPOSES)}", param="purpose", code="invalid_value")
        expiry = form.fields.get("expires_after")
        if expiry is not None and not _is_expiry(expiry):
            return refuse(400, "expires_after is not an anchor and seconds", param="expires_after")
        return None

    def _missing(self, request: web.Request) -> web.StreamResponse:
        file_id = request.match_info["id"]
        if self._dialect.plain_errors:
            return self._dialect.refusal(404, f"unable to find file id {file_id}")
        return refusal(404, f"No such File object: {file_id}", param="id")


def _miscount() -> int:
    """Bytes by which this request's file is to be wrong."""
    fault = CURRENT.get().fault
    return fault.after if fault is not None and fault.kind == "miscount" else 0


async def send_bytes(
    request: web.Request,
    pieces: AsyncIterator[bytes],
    *,
    size: int | None,
    media_type: str,
    filename: str | None = None,
) -> web.StreamResponse:
    """Answer with bytes; the request's fault may have it that they do not all come."""
    response = web.StreamResponse(headers={"Content-Type": media_type})
    if filename is not None:
        response.headers["Content-Disposition"] = f'attachment; filename="{_quoted(filename)}"'
    if size is not None:
        response.content_length = size
    await response.prepare(request)
    fault = CURRENT.get().fault
    left = fault.after if fault is not None and fault.kind in ("cut_answer", "stall_answer") else None
    async for piece in pieces:
        if left is not None and len(piece) >= left:
            assert fault is not None
            await response.write(piece[:left])
            if fault.kind == "stall_answer":
                await asyncio.Event().wait()  # Ends when the client goes.
            abort(request)
            return response
        await response.write(piece)
        left = None if left is None else left - len(piece)
    await response.write_eof()
    return response


def describe(stored: StoredFile) -> str:
    """What a chat says of a file."""
    return f"{stored.filename} ({stored.size} bytes, sha256 {stored.sha256})"


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(64 * 1024):
            yield data


def _is_expiry(expiry: Any) -> bool:
    if not isinstance(expiry, Mapping) or expiry.get("anchor") != "created_at":
        return False
    seconds = str(expiry.get("seconds"))
    return seconds.isdigit() and _LIFE[0] <= int(seconds) <= _LIFE[1]


def _quoted(filename: str) -> str:
    return filename.replace("\\", "\\\\").replace('"', '\\"')
