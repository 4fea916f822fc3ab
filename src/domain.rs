//! The values of the domain: money, quantities, demands, limits, windows, ids, secrets.
//!
//! Row 0: standard library only. No I/O, no clock, no serialisation. A module
//! that stores or shows these values maps them at its own edge.

pub mod balance;
pub mod demand;
pub mod fuse;
pub mod id;
pub mod kept;
pub mod limit;
pub mod model;
pub mod money;
pub mod object;
pub mod pattern;
pub mod quantity;
pub mod secret;
pub mod stop;
pub mod tag;
pub mod usage;
pub mod window;

pub use balance::Balance;
pub use demand::Demand;
pub use fuse::Fuse;
pub use kept::{KeptContainers, KeptContext, KeptSize, Rendering};
pub use limit::Limit;
pub use money::Money;
pub use object::{KnownObject, ObjectKind, ObjectReference};
pub use pattern::Pattern;
pub use quantity::{Class, Quantities};
pub use secret::Secret;
pub use stop::{Spender, SpenderKind, Stop};
pub use usage::Usage;
pub use window::{Span, Window};
