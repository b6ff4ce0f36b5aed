//! Cleans up after a test that was killed: see `scratch.rs`.

fn main() {
    fixtures::reap();
}
