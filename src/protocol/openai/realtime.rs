//! Messages on a `WebSocket` of `/realtime`, as far as their cost depends on them.
//!
//! A session keeps a conversation, all of which a response reads. Responses are asked for, or begin
//! by themselves when upstream finds that a speaker has finished. Messages are passed on as they
//! came, except those that the guard has to change.
//! (The types `RealtimeClientEvent` and `RealtimeServerEvent` of OpenAI's SDKs.)

mod client;
mod content;
mod secret;
mod server;
mod settings;
mod translation;

pub use self::client::{ClientEvent, Create, Update, client_event};
pub use self::content::{Content, SoundFormat};
pub use self::secret::{BoundSession, SecretRequest};
pub use self::server::{Begun, ServerEvent, server_event, without_event_id};
pub use self::settings::{Settings, Transcription};
pub use self::translation::{TranslationEvent, translation_event};

#[cfg(test)]
mod tests;
