//! Reads a body into a demand, and sets the few fields that the guard may set.
//!
//! The request that is read and the one that is forwarded must be the same. So a
//! body is refused if an interpreted field is repeated, or is in a form that
//! another reader may read differently. All bytes that are not edited stay as they
//! are.

mod content;
mod document;
mod fields;
mod form;
mod form_ids;
mod hosted;
mod image_fields;
pub(in crate::protocol::openai) mod images;
mod kept;
mod labels;
mod measure;
mod object_ids;
mod references;
mod sparse;
pub(in crate::protocol::openai) mod speech;
mod splice;
mod tools;
pub(in crate::protocol::openai) mod transcripts;
mod turns;

use std::borrow::Cow;

use serde::Deserialize;

pub(in crate::protocol::openai) use self::content::Found;
use self::fields::CacheOptions;
pub(in crate::protocol::openai) use self::fields::{Body, Outputs};
pub use self::form_ids::FormIds;
pub use self::hosted::{AddedFiles, NewContainer, added_files, new_container, searches};
pub use self::kept::kept_items;
pub use self::object_ids::object_ids;
use self::references::References;
pub use self::splice::Edit;
use self::splice::Splices;
use self::tools::Offered;
use super::json::{self, Object, Raw};
use crate::domain::demand::{Tier, ToolDemand};
use crate::domain::{Demand, ObjectKind, ObjectReference};

/// A metered request, read.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it asks for. Boxed, since it is large, and a request passes through several futures.
    pub demand: Box<Demand>,
    usage_injected: bool,
    /// `None` if nothing may be set.
    splices: Option<Splices>,
}

/// Why a body can't be let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// For the client: the problem, and the remedy.
    pub message: String,
    /// The field at fault, if it is one.
    pub param: Option<&'static str>,
    /// Whether it is broken or merely not allowed.
    pub kind: InvalidKind,
}

/// The two ways in which a body is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidKind {
    /// It can't be read, or could be read in two ways.
    Malformed,
    /// It is clear, and asks for something that can't be priced.
    NotAllowed,
}

/// The largest whole number that every JSON reader agrees on.
const COUNT_MAX: u64 = 1 << 53;
/// The most choices one request may ask for, as upstream has it.
const CHOICES_MAX: u64 = 128;
/// The longest model name and end user, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// The most of a parser's message that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// How the JSON body of an operation that generates is read: what differs between them.
pub(in crate::protocol::openai) struct BodyRules {
    /// The output bound.
    pub(in crate::protocol::openai) outputs: for<'a> fn(&Body<'a>) -> Result<Outputs<'a>, Invalid>,
    /// How many outputs are made.
    pub(in crate::protocol::openai) choices: fn(&Body<'_>) -> Result<u64, Invalid>,
    /// The content of the messages, or of the input.
    pub(in crate::protocol::openai) content: for<'a> fn(&mut Body<'a>) -> Found<'a>,
    /// Whether upstream keeps the answer, by the field `store`.
    pub(in crate::protocol::openai) is_stored: fn(Raw<'_>) -> bool,
    /// Sets what only this operation has.
    pub(in crate::protocol::openai) also: fn(&Body<'_>, &mut Demand),
    /// Whether it can repeat its prompt in the answer.
    pub(in crate::protocol::openai) has_echo: bool,
    /// Whether it reads context from upstream's own store, and may have hosted tools.
    pub(in crate::protocol::openai) reads_kept_context: bool,
    /// Whether usage of a stream has to be asked for, in `stream_options`.
    pub(in crate::protocol::openai) has_stream_options: bool,
    /// Whether the answer can be made in the background.
    pub(in crate::protocol::openai) has_background: bool,
}

/// Reads the body of an operation.
pub(in crate::protocol::openai) fn read(rules: &BodyRules, body: &[u8]) -> Result<Request, Invalid> {
    let text = text(body)?;
    let fields: Body<'_> = fields(text)?;
    let outputs = (rules.outputs)(&fields)?;
    let usage_asked = splice::usage_asked(fields.stream_options)?;
    let splices = Some(Splices::find(text, &fields, &outputs));
    let demand = Box::new(demand(rules, fields, &outputs, usage_asked, text)?);
    Ok(Request { usage_injected: demand.stream && rules.has_stream_options && !usage_asked, demand, splices })
}

/// The fields of a body, which is an object with each of them once.
pub(in crate::protocol::openai) fn fields<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Invalid> {
    let read = serde_json::from_str::<Object<T>>(text);
    read.map(|Object(fields)| fields).map_err(|error| Invalid::body(&error.to_string()))
}

/// A body as text that any JSON reader can take apart.
pub(in crate::protocol::openai) fn text(body: &[u8]) -> Result<&str, Invalid> {
    let text = std::str::from_utf8(body).map_err(|_| Invalid::body("it is not valid UTF-8"))?;
    if !json::is_shallow(body) {
        return Err(Invalid::body(&format!("it is nested deeper than {} levels", json::DEPTH_MAX)));
    }
    Ok(text)
}

impl Request {
    /// The body with the edits made; `None` when they change nothing.
    ///
    /// `body` must be the bytes this request was parsed from.
    pub fn rewrite(&self, body: &[u8], edit: &Edit) -> Option<Vec<u8>> {
        self.splices.as_ref()?.rewrite(body, edit)
    }

    /// A request that is forwarded as it is.
    pub fn unedited(demand: Demand) -> Self {
        Self { demand: Box::new(demand), usage_injected: false, splices: None }
    }

    /// Whether usage must be asked for on the client's behalf, and hidden.
    pub fn wants_usage_injected(&self) -> bool {
        self.usage_injected
    }
}

impl Invalid {
    pub(in crate::protocol::openai) fn field(param: &'static str, rule: &str) -> Self {
        let message = format!("Invalid value for '{param}': {rule}.");
        Self { message, param: Some(param), kind: InvalidKind::Malformed }
    }

    /// As OpenAI words it.
    fn below_minimum(param: &'static str, least: u64, got: &str) -> Self {
        let message = format!(
            "Invalid '{param}': integer below minimum value. Expected a value >= {least}, but got {got} instead."
        );
        Self { message, param: Some(param), kind: InvalidKind::Malformed }
    }

    fn body(why: &str) -> Self {
        let why: String = why.chars().take(MESSAGE_CHARS_MAX).collect();
        let message = format!("We could not parse the JSON body of your request: {why}.");
        Self { message, param: None, kind: InvalidKind::Malformed }
    }

    /// JSON where only a form is taken.
    pub(in crate::protocol::openai) fn no_form() -> Self {
        let message = "This endpoint takes a form: send it as multipart/form-data, with the recording in the part \
                       `file`.";
        Self { message: message.to_owned(), param: None, kind: InvalidKind::Malformed }
    }

    fn not_allowed(param: &'static str, message: String) -> Self {
        Self { message, param: Some(param), kind: InvalidKind::NotAllowed }
    }
}

fn demand(
    rules: &BodyRules,
    mut fields: Body<'_>,
    outputs: &Outputs<'_>,
    usage_asked: bool,
    text: &str,
) -> Result<Demand, Invalid> {
    let stored = (rules.is_stored)(fields.store);
    let background = background(rules, &fields, stored)?;
    let stored_prompt = rules.reads_kept_context && fields.prompt.is_given;
    let mut demand = Demand {
        model: model(fields.model, stored_prompt)?,
        stored_prompt,
        stream: flag(fields.stream, "stream")?,
        usage_asked,
        tier: tier(fields.service_tier)?,
        body_bytes: u64::try_from(text.len()).unwrap_or(u64::MAX),
        choices: (rules.choices)(&fields)?,
        has_unseen_choices: count(fields.best_of, "best_of")?.unwrap_or(1)
            > count(fields.n, "n")?.unwrap_or(1),
        output_max: outputs.bound,
        audio_output: fields.modalities.audio,
        echo: rules.has_echo && flag(fields.echo, "echo")?,
        cache_12h: long_cache(fields.prompt_cache_options.0.ttl),
        subagents: rules.reads_kept_context && turns::runs_subagents(fields.multi_agent),
        compacted_at: turns::compacted_at(fields.context_management).filter(|_| rules.reads_kept_context),
        end_user: end_user(&fields)?,
        labels: labels::of(&fields),
        stored,
        background,
        rendering: kept::rendering(&fields),
        truncates: fields.truncation.value().is_some_and(|mode| mode != "\"disabled\""),
        ..Demand::default()
    };
    let named = named(rules, &fields);
    let mut content = (rules.content)(&mut fields);
    let is_kept = demand.stored || fields.conversation.value().is_some();
    kept::refuse_tools(&content, is_kept && rules.reads_kept_context, "input")?;
    demand.media = measure::media(&content, text);
    demand.server_context = content.server_context;
    demand.cache_12h |= content.cache_12h;
    let calls_max = count(fields.max_tool_calls, "max_tool_calls")?;
    let mut offer = std::mem::take(&mut fields.tools);
    offer.merge(std::mem::take(&mut content.offer));
    let mut offer = offer.into_inner();
    let parts = [named, content.references, std::mem::take(&mut offer.references)];
    demand.references = references::all(parts).map_err(|problem| Invalid::body(&problem))?;
    demand.tools = tools(rules, offer, calls_max)?;
    (rules.also)(&fields, &mut demand);
    Ok(demand)
}

/// Whether the answer is made in the background.
fn background(rules: &BodyRules, fields: &Body<'_>, stored: bool) -> Result<bool, Invalid> {
    if !flag(fields.background, "background")? {
        return Ok(false);
    }
    if !rules.has_background {
        let message =
            "Only /v1/responses runs in the background. Send the request without `background`; its answer \
                       can be streamed."
                .to_owned();
        return Err(Invalid::not_allowed("background", message));
    }
    if !stored {
        return Err(Invalid::field("background", "it requires `store` to be true"));
    }
    if fields.conversation.value().is_some() {
        // Its size would change at a time that no request knows.
        let message =
            "Background responses on a conversation are not metered yet. Continue from an earlier response \
                       with `previous_response_id`, or send the request without `background`."
                .to_owned();
        return Err(Invalid::not_allowed("background", message));
    }
    Ok(true)
}

fn tools(rules: &BodyRules, offer: Offered, calls_max: Option<u64>) -> Result<ToolDemand, Invalid> {
    let Offered { tools, refused, .. } = offer;
    if let Some(message) = refused {
        return Err(Invalid::not_allowed("tools", message));
    }
    if !rules.reads_kept_context && tools != ToolDemand::default() {
        let message = "Hosted tools are priced in /v1/responses only. Send this request there.".to_owned();
        return Err(Invalid::not_allowed("tools", message));
    }
    let image_model = tools.image.as_ref().and_then(|tool| tool.model.as_deref());
    image_model.map_or(Ok(()), |model| check_name(model, "tools"))?;
    Ok(ToolDemand { calls_max, ..tools })
}

/// The objects that the fields of a body name, its items and tools aside.
fn named(rules: &BodyRules, fields: &Body<'_>) -> References {
    let mut named = References::default();
    if rules.reads_kept_context {
        named.add(ObjectKind::Response, fields.previous_response_id);
        named.add(ObjectKind::Conversation, fields.conversation);
        named.add_member(ObjectKind::Conversation, fields.conversation);
    }
    named
}

/// A number of choices, of which `least` may be asked for; one if it is not given.
pub(in crate::protocol::openai) fn choices(
    raw: Raw<'_>,
    param: &'static str,
    least: u64,
) -> Result<u64, Invalid> {
    match count(raw, param)?.unwrap_or(1) {
        few if few < least => Err(Invalid::below_minimum(param, least, "0")),
        many if many > CHOICES_MAX => Err(Invalid::field(param, "it must be at most 128")),
        some => Ok(some),
    }
}

/// The model; a stored prompt may name it in the body's place.
fn model(raw: Raw<'_>, stored_prompt: bool) -> Result<String, Invalid> {
    match name(raw, "model")? {
        Some(model) if !model.trim().is_empty() => Ok(model),
        Some(_) => Err(Invalid::field("model", "it must not be empty")),
        None if stored_prompt => Ok(String::new()),
        None => Err(Invalid {
            message: "You must provide a model parameter.".to_owned(),
            param: Some("model"),
            kind: InvalidKind::Malformed,
        }),
    }
}

fn end_user(fields: &Body<'_>) -> Result<Option<String>, Invalid> {
    let safety = name(fields.safety_identifier, "safety_identifier")?;
    let user = name(fields.user, "user")?;
    Ok(safety.or(user))
}

fn tier(raw: Raw<'_>) -> Result<Option<Tier>, Invalid> {
    match string(raw, "service_tier")?.as_deref() {
        None | Some("auto") => Ok(None),
        Some(named) => Tier::named(named)
            .filter(|tier| !tier.is_implied())
            .map(Some)
            .ok_or_else(|| Invalid::field("service_tier", "there is no known tier of that name")),
    }
}

/// Every life but the known short one is taken for the dearest.
fn long_cache(ttl: Raw<'_>) -> bool {
    ttl.value().is_some() && ttl.string().as_deref() != Some("30m")
}

/// Whether a cache breakpoint has a life of its own that is not the short one.
fn long_breakpoint(breakpoint: Raw<'_>) -> bool {
    let Some(text) = breakpoint.value() else { return false };
    let read = serde_json::from_str::<Object<CacheOptions<'_>>>(text);
    read.map_or(true, |Object(options)| long_cache(options.ttl))
}

fn flag(raw: Raw<'_>, param: &'static str) -> Result<bool, Invalid> {
    match (raw.value(), raw.flag()) {
        (None, _) => Ok(false),
        (Some(_), Some(flag)) => Ok(flag),
        (Some(_), None) => Err(Invalid::field(param, "it must be true or false")),
    }
}

fn string<'a>(raw: Raw<'a>, param: &'static str) -> Result<Option<Cow<'a, str>>, Invalid> {
    match (raw.value(), raw.string()) {
        (None, _) => Ok(None),
        (Some(_), Some(string)) => Ok(Some(string)),
        (Some(_), None) => Err(Invalid::field(param, "it must be a string")),
    }
}

fn name(raw: Raw<'_>, param: &'static str) -> Result<Option<String>, Invalid> {
    let Some(name) = string(raw, param)? else { return Ok(None) };
    check_name(&name, param)?;
    Ok(Some(name.into_owned()))
}

fn check_name(name: &str, param: &'static str) -> Result<(), Invalid> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Invalid::field(param, "a name must be at most 256 bytes long"));
    }
    if name.chars().any(char::is_control) {
        return Err(Invalid::field(param, "a name must hold no control characters"));
    }
    Ok(())
}

/// A plain whole number, in the one spelling that all parsers read alike.
fn count(raw: Raw<'_>, param: &'static str) -> Result<Option<u64>, Invalid> {
    let Some(text) = raw.value() else { return Ok(None) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number <= COUNT_MAX => Ok(Some(number)),
        _ if is_negative(text) => {
            let least = u64::from(param != "best_of");
            Err(Invalid::below_minimum(param, least, text))
        }
        Ok(_) | Err(_) => {
            Err(Invalid::field(param, "it must be a whole number, not negative, in plain digits"))
        }
    }
}

fn is_negative(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or_default();
    (1..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
