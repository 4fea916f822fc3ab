//! The files that the fake keeps. A form is read whole, of up to 512 MiB, and its file is kept in
//! memory as it came.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{Either, Full};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::fake_openai::bounded::{Bounded, Measured, page};
use crate::fake_openai::{Answer, Fake, Refusal, answer, query, refused};
use crate::protocol::multipart;

/// The most bytes of a file.
const FILE_BYTES_MAX: usize = 512 << 20;
/// How long a file for a batch is kept, in seconds, unless its form says otherwise: 30 days.
const BATCH_FILE_S: u64 = 2_592_000;
/// Files of a page, unless the query says otherwise.
const PAGE: usize = 10_000;
/// What a file may be for.
const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// The files, by id.
pub(super) type Files = Bounded<File>;

/// A file as it came.
#[derive(Debug)]
pub(super) struct File {
    object: Value,
    content: Bytes,
}

impl Measured for File {
    fn bytes(&self) -> usize {
        self.content.len()
    }
}

/// A form: its texts, and the file of one name.
pub(super) struct Form {
    texts: BTreeMap<String, String>,
    file: Option<(String, Bytes)>,
}

impl Form {
    /// Reads a form whose file has a name; `None` if it is no form.
    pub(super) fn read(headers: &HeaderMap, body: &Bytes, file_part: &str) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let mut form = Self { texts: BTreeMap::new(), file: None };
        for part in multipart::parts(body, multipart::boundary(kind)?.ok()?).ok()? {
            if part.name == file_part {
                let name = part.file_name.unwrap_or_default().to_owned();
                form.file = Some((name, body.slice_ref(part.data)));
            } else {
                let text = String::from_utf8_lossy(part.data).into_owned();
                form.texts.insert(part.name.to_owned(), text);
            }
        }
        Some(form)
    }

    /// Takes the file out: its name and content.
    pub(super) fn take_file(&mut self) -> Option<(String, Bytes)> {
        self.file.take()
    }

    /// The text of a field.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }
}

/// A file that is to be kept.
pub(super) struct NewFile<'a> {
    pub(super) name: &'a str,
    pub(super) purpose: &'a str,
    /// Seconds until it is forgotten, where the request says it.
    pub(super) expires_after: Option<u64>,
    pub(super) content: Bytes,
}

impl NewFile<'_> {
    /// Why OpenAI takes no such file.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let jsonl = || self.name.rsplit_once('.').is_some_and(|(_, ending)| ending == "jsonl");
        let bad = |text: String, param| Err(Refusal::bad(text, Some(param)));
        match self.purpose {
            "batch" if !jsonl() => {
                bad("Invalid file format for Batch API. Must be .jsonl".to_owned(), "file")
            }
            purpose if !PURPOSES.contains(&purpose) => {
                bad(format!("'{purpose}' is not one of {PURPOSES:?} - 'purpose'"), "purpose")
            }
            _ if self.expires_after.is_some_and(|seconds| !(3_600..=BATCH_FILE_S).contains(&seconds)) => {
                let text = format!("Expected a number of seconds between 3600 and {BATCH_FILE_S}.");
                bad(text, "expires_after")
            }
            _ if self.content.len() > FILE_BYTES_MAX => Err(Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                ..Refusal::bad("File is too large.", None)
            }),
            _ => Ok(()),
        }
    }
}

impl Fake {
    /// Keeps a file; returns its object.
    pub(super) fn keep_file(&self, file: NewFile<'_>) -> Value {
        let (id, now) = (self.new_id("file-"), self.clock.now_s());
        let lasting = file.expires_after.or((file.purpose == "batch").then_some(BATCH_FILE_S));
        let expires_at = lasting.and_then(|seconds| i64::try_from(seconds).ok()).map(|seconds| now + seconds);
        let object = json!({
            "id": id, "object": "file", "bytes": file.content.len(), "created_at": now, "filename": file.name,
            "purpose": file.purpose, "status": "processed", "expires_at": expires_at, "status_details": null,
        });
        self.files.keep(id, File { object: object.clone(), content: file.content });
        object
    }

    /// The object of a file and its content.
    pub(super) fn file(&self, id: &str) -> Option<(Value, Bytes)> {
        self.files.with(id, |file| (file.object.clone(), file.content.clone()))
    }

    /// What is kept of each file, with the digest of its content, for tests.
    pub(super) fn digests(&self) -> Value {
        let with_digest = |file: &File| {
            let mut object = file.object.clone();
            let digest = Bytes::copy_from_slice(&Sha256::digest(&file.content));
            object["sha256"] = json!(format!("{digest:x}"));
            Some(object)
        };
        Value::Array(self.files.map(with_digest))
    }

    /// Answers what is asked of files, by what follows their path.
    pub(super) fn on_files(&self, head: &Parts, rest: &[&str], body: &Bytes) -> Response<Answer> {
        let missing = |id: &str| Refusal::missing(format!("No such File object: {id}"));
        let found = match (&head.method, rest) {
            (&Method::POST, []) => self.upload(&head.headers, body),
            (&Method::GET, []) => {
                let purpose = query(&head.uri, "purpose");
                let is_asked = |file: &&File| purpose.is_none_or(|purpose| file.object["purpose"] == purpose);
                let objects =
                    self.files.map(|file| Some(file).filter(is_asked).map(|file| file.object.clone()));
                Ok(page(&head.uri, objects, PAGE))
            }
            (&Method::GET, [id]) => self.file(id).map(|(object, _)| object).ok_or_else(|| missing(id)),
            (&Method::GET, [id, "content"]) => match self.file(id) {
                Some((_, content)) => return raw(content),
                None => Err(missing(id)),
            },
            (&Method::DELETE, [id]) => {
                let deleted = json!({ "id": id, "object": "file", "deleted": true });
                self.files.remove(id).map(|_| deleted).ok_or_else(|| missing(id))
            }
            _ => Err(Refusal::missing("unknown path")),
        };
        found.map_or_else(|refusal| refused(&refusal), |object| answer(StatusCode::OK, &object))
    }

    fn upload(&self, headers: &HeaderMap, body: &Bytes) -> Result<Value, Refusal> {
        let unread = || Refusal::bad("We could not parse your multipart form.", None);
        let mut form = Form::read(headers, body, "file").ok_or_else(unread)?;
        let needs = |name| Refusal::bad(format!("'{name}' is a required property"), Some(name));
        let (name, content) = form.take_file().ok_or_else(|| needs("file"))?;
        let purpose = form.text("purpose").ok_or_else(|| needs("purpose"))?;
        let expires_after = form.text("expires_after[seconds]").map(|seconds| seconds.parse().unwrap_or(0));
        let file = NewFile { name: &name, purpose, expires_after, content };
        file.check()?;
        Ok(self.keep_file(file))
    }
}

/// A content as it came.
pub(super) fn raw(content: Bytes) -> Response<Answer> {
    let mut response = Response::new(Either::Left(Full::new(content)));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
