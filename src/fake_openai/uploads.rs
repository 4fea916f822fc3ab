//! Files that are uploaded in parts. The digest that a client may give for the whole is not checked.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::bounded::{Bounded, Measured};
use crate::fake_openai::files::{Form, NewFile};
use crate::fake_openai::{Answer, Fake, Refusal, answer, refused};

/// The most bytes of a part.
const PART_BYTES_MAX: usize = 64 << 20;
/// The most bytes of an upload.
const UPLOAD_BYTES_MAX: u64 = 8 << 30;
/// How long an upload may take, in seconds.
const UPLOAD_S: i64 = 3_600;

/// The uploads that were begun, and their parts, by id.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    begun: Bounded<Upload>,
    parts: Bounded<Part>,
}

#[derive(Debug)]
struct Upload {
    object: Value,
    expires_after: Option<u64>,
}

impl Measured for Upload {
    fn bytes(&self) -> usize {
        0
    }
}

#[derive(Debug)]
struct Part {
    upload: String,
    data: Bytes,
}

impl Measured for Part {
    fn bytes(&self) -> usize {
        self.data.len()
    }
}

impl Fake {
    /// Answers what is asked of uploads, by what follows their path.
    pub(super) fn on_uploads(&self, head: &Parts, rest: &[&str], body: &Bytes) -> Response<Answer> {
        let fields = || {
            let unread = || Refusal::bad("We could not parse the JSON body of your request.", None);
            serde_json::from_slice::<Value>(body).map_err(|_| unread())
        };
        let found = match (&head.method, rest) {
            (&Method::POST, []) => fields().and_then(|fields| self.begin_upload(&fields)),
            (&Method::POST, [id, "parts"]) => match Form::read(&head.headers, body, "data") {
                Some(form) => self.add_part(id, form),
                None => Err(Refusal::bad("We could not parse your multipart form.", None)),
            },
            (&Method::POST, [id, "complete"]) => {
                fields().and_then(|fields| self.complete_upload(id, &fields))
            }
            (&Method::POST, [id, "cancel"]) => self.end_upload(id, "cancelled", Value::Null),
            _ => Err(Refusal::missing("unknown path")),
        };
        found.map_or_else(|refusal| refused(&refusal), |object| answer(StatusCode::OK, &object))
    }

    fn begin_upload(&self, fields: &Value) -> Result<Value, Refusal> {
        let missing = |name| Refusal::bad(format!("Missing required parameter: '{name}'."), Some(name));
        let text = |name: &'static str| fields[name].as_str().ok_or_else(|| missing(name));
        let (name, purpose) = (text("filename")?, text("purpose")?);
        text("mime_type")?;
        let bytes = fields["bytes"].as_u64().ok_or_else(|| missing("bytes"))?;
        if bytes > UPLOAD_BYTES_MAX {
            return Err(Refusal::bad("File is too large.", Some("bytes")));
        }
        let expires_after = fields["expires_after"]["seconds"].as_u64();
        NewFile { name, purpose, expires_after, content: Bytes::new() }.check()?;
        let (id, now) = (self.new_id("upload_"), self.clock.now_s());
        let object = json!({
            "id": id, "object": "upload", "bytes": bytes, "created_at": now, "filename": name,
            "purpose": purpose, "status": "pending", "expires_at": now + UPLOAD_S, "file": null,
        });
        self.uploads.begun.keep(id, Upload { object: object.clone(), expires_after });
        Ok(object)
    }

    /// The object of an upload that goes on, and how long its file lasts.
    fn pending(&self, id: &str) -> Result<(Value, Option<u64>), Refusal> {
        let found = self.uploads.begun.with(id, |upload| (upload.object.clone(), upload.expires_after));
        let found = found.ok_or_else(|| Refusal::missing(format!("No such Upload object: {id}")))?;
        if found.0["status"] == "pending" {
            return Ok(found);
        }
        Err(Refusal::bad(format!("Upload {id} has status {}.", found.0["status"]), None))
    }

    fn add_part(&self, id: &str, mut form: Form) -> Result<Value, Refusal> {
        self.pending(id)?;
        let (_, data) =
            form.take_file().ok_or_else(|| Refusal::bad("'data' is a required property", Some("data")))?;
        if data.len() > PART_BYTES_MAX {
            return Err(Refusal::bad("A part has 64 MB at the most.", Some("data")));
        }
        let part = self.new_id("part_");
        let object =
            json!({ "id": part, "object": "upload.part", "created_at": self.clock.now_s(), "upload_id": id });
        self.uploads.parts.keep(part, Part { upload: id.to_owned(), data });
        Ok(object)
    }

    /// Makes a file of parts, in the order in which they are named.
    fn complete_upload(&self, id: &str, fields: &Value) -> Result<Value, Refusal> {
        let (object, expires_after) = self.pending(id)?;
        let mut content = BytesMut::new();
        for part in fields["part_ids"].as_array().into_iter().flatten() {
            let part = part.as_str().unwrap_or_default();
            let add = |part: &mut Part| (part.upload == id).then(|| content.extend_from_slice(&part.data));
            let added = self.uploads.parts.with(part, add).flatten();
            added.ok_or_else(|| Refusal::bad(format!("No such Part object: {part}"), Some("part_ids")))?;
        }
        if object["bytes"] != content.len() {
            let text = format!("The parts have {} bytes, and the upload {}.", content.len(), object["bytes"]);
            return Err(Refusal::bad(text, None));
        }
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let (name, purpose) = (text("filename"), text("purpose"));
        let file = NewFile { name, purpose, expires_after, content: content.freeze() };
        file.check()?;
        let file = self.keep_file(file);
        self.end_upload(id, "completed", file)
    }

    /// Ends an upload, and forgets its parts.
    fn end_upload(&self, id: &str, status: &str, file: Value) -> Result<Value, Refusal> {
        let (mut object, _) = self.pending(id)?;
        (object["status"], object["file"]) = (json!(status), file);
        let ended = object.clone();
        self.uploads.begun.with(id, |upload| upload.object = ended);
        self.uploads.parts.retain(|part| part.upload != id);
        Ok(object)
    }
}
