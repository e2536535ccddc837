//! The `cart` command.

fn main() {}
