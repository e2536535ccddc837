//! What earlier releases wrote must be read for ever.

use cart_tests::{Cart, fixture};

/// The files of `fixtures/v1/valid` and the ids of what they hold.
const VALID: [(&str, &str); 1] = [(
    "llama-f32-sharded.cart",
    "b9ad7d85af5f4406b288be04f9b5315f8224e3c9ba72b3d994f09ed09c12db5c",
)];

#[test]
fn every_frozen_file_is_intact_and_has_its_id() {
    let cart = Cart::new();
    for (name, id) in VALID {
        let file = fixture(&format!("v1/valid/{name}"));
        let report = cart.json(["verify", &file]);
        assert_eq!(report["cartridges"][0]["manifest"], id, "{name}");
        assert_eq!(report["intact"], true, "{name}");
        let packed = cart.json(["pack", &file, "-t", "frozen"]);
        assert_eq!(packed["manifest"], id, "{name}");
    }
}

#[test]
fn there_is_no_stray_file() {
    let folder = std::fs::read_dir(fixture("v1/valid")).unwrap();
    for entry in folder {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(VALID.iter().any(|(known, _)| *known == name), "{name}");
    }
}
