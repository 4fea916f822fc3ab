//! Values of the trade: money, tokens, demands, limits, windows, ids, secrets.
//!
//! Row 0: standard library only. No I/O, no clock, no serialisation. Whoever
//! stores or shows these values maps them at its own edge.

pub mod demand;
pub mod id;
pub mod kept;
pub mod limit;
pub mod model;
pub mod money;
pub mod object;
pub mod pattern;
pub mod secret;
pub mod tokens;
pub mod window;

pub use demand::Demand;
pub use kept::{KeptContainers, KeptContext, KeptSize, Rendering};
pub use limit::Limit;
pub use money::Money;
pub use object::{KnownObject, ObjectKind, ObjectReference};
pub use pattern::Pattern;
pub use secret::Secret;
pub use tokens::{Tokens, Usage};
pub use window::{Span, Window};
