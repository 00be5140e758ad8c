//! The contract between the kernel programs, the attacher and the daemon's main process.
//!
//! Two borders are described here and nowhere else: what the BPF programs write and read ([`event`], [`content`],
//! [`control`], [`counter`]) and what main asks of the privileged attacher ([`attacher`]). Every type is `repr(C)`, of
//! fixed width and without padding (a padded struct does not compile), so that it has one layout on the BPF target
//! and on the host, and no uninitialised kernel byte can cross.
//!
//! Discriminants travel as integers and become enums by a `match` with an unknown arm, never by a cast.
#![no_std]

pub mod attacher;
pub mod content;
pub mod control;
pub mod counter;
pub mod event;

/// Version of every layout in this crate. The attacher sends it first; main refuses another one.
pub const VERSION: u32 = 2;

/// Longest host name that travels, in bytes (RFC 1035 section 2.3.4 allows 255 octets in wire form, 253 as text).
pub const NAME_MAX: usize = 256;

/// Declares `u32` discriminants with a total conversion from the wire.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)* }

        impl $name {
            /// Every variant, in wire order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The variant with this wire value, or `None` for a value this version does not know.
            pub const fn from_wire(value: u32) -> Option<Self> {
                match value { $($value => Some($name::$variant),)* _ => None }
            }

            /// The value that travels.
            pub const fn wire(self) -> u32 { self as u32 }

            /// Snake-case name, as shown in metrics and by `venturi doctor`.
            pub const fn variant_name(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant),)* }
            }
        }
    };
}
