//! What the meter does with memory, seen by the allocator: how much it holds at most, how often it asks for some, and
//! that nothing of a body or a key lies in what it gives back.

mod allocator;
mod bounds;
mod wiped;
mod world;
