//! OpenAI's bill, modelled apart from the guard.
//!
//! For a request, and for what upstream did with it: [`charge`](outcome::Outcome::charge) says what
//! OpenAI charges, [`maximum()`] what it could have charged at the most. Both were written from OpenAI's
//! published formats and prices, and share no code with the guard: a fault that is in both is
//! unlikely. [`draw`] makes requests of all kinds, hostile ones included, and
//! [`answer`] the bytes that upstream would send.
//!
//! Where nothing is published, [`world::Assumptions`] names what is assumed.

pub mod answer;
pub mod ask;
pub mod audio;
pub mod base64;
pub mod batch;
pub mod chance;
pub mod decisions;
pub mod draw;
pub mod hosted;
pub mod image;
pub mod images;
pub mod maximum;
pub mod media;
pub mod outcome;
pub mod prices;
pub mod text;
pub mod tools;
pub mod upstream;
pub mod world;

pub use ask::Ask;
pub use chance::Chance;
pub use maximum::maximum;
pub use outcome::Outcome;
pub use world::{Endpoint, World};
