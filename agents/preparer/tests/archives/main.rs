//! What GNU tar makes of an archive, we make of it: of real ones in all the dialects that people and tools write.

mod crates;
mod dialects;
mod same;
mod sample;
