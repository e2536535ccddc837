//! The real binary over a real database.

use std::time::{Duration, Instant};

use cart_tests::{Cart, Database, Server, fixture};
use serde_json::{Value, json};

/// Settings under which everything that is told is offered at once.
pub(crate) const EAGER: &str = r#"{"observer_interval": 1, "consolidate_threshold": 0, "ltm_slots": 131072, "stm_slots": 32, "prune_age": 1000000000}"#;

/// A store with a model as `agent`, whose memory has these settings and one entry.
pub(crate) fn with_agent(model: &str) -> Cart {
    let cart = Cart::new();
    cart.ok(["pack", model, "-t", "bare"]);
    let settings = cart.file("settings.json", EAGER.as_bytes());
    let told = cart.file("told.txt", b"The lighthouse was built in 1911.\n");
    cart.ok(["memory", "import", "bare", &told, "--save", "agent", "--settings", &settings]);
    cart
}

pub(crate) fn serve(cart: &Cart, database: &Database) -> Server {
    let url = database.url();
    Server::start_with(cart, "agent", &["--listen", "127.0.0.1:0", "--ltm", &url])
}

pub(crate) fn telling(session: &str, text: &str) -> Value {
    let memory = json!({ "write": true, "session": session });
    json!({ "prompt": text, "max_tokens": 1, "temperature": 0, "memory": memory })
}

/// Tells a conversation something; gives what the answer says of the long-term memory.
fn tell(server: &Server, session: &str, text: &str) -> Value {
    let answer = server.post_json("/v1/completions", &telling(session, text));
    answer["cart"]["memory"]["long_term"].clone()
}

fn recalled(server: &Server, session: &str, question: &str) -> Vec<String> {
    let memory = json!({ "prefix": { "top_k": 8, "min_score": -1.0 }, "session": session });
    let body = json!({ "prompt": question, "max_tokens": 1, "memory": memory });
    let answer = server.post_json("/v1/completions", &body);
    let read = answer["cart"]["memory"]["read"].as_array().unwrap();
    read.iter().map(|slot| slot["text"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn wait_until(what: &str, mut wanted: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < Duration::from_mins(1), "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn long_term(server: &Server) -> Value {
    server.get_json("/cart/state")["long_term"].clone()
}

#[test]
fn what_one_server_is_told_another_one_knows_and_it_travels_in_a_cartridge() {
    let Some(database) = Database::start() else { return };
    let (here, there) = (with_agent(&fixture("tiny")), with_agent(&fixture("tiny")));
    let (one, two) = (serve(&here, &database), serve(&there, &database));
    let boat = "The code of the red boat is 4821.";
    let used = tell(&one, "anna", boat);
    assert_eq!((&used["pending"], &used["reachable"]), (&json!(0), &json!(true)), "{used}");
    assert_eq!(used["offers"][0]["settlement"]["kind"], "inserted", "{used}");
    assert!(used["place"].as_str().unwrap().starts_with("postgres://127.0.0.1:"), "{used}");
    // The seed, which the first server put there, and what was told.
    wait_until("an entry on the other server", || long_term(&two)["entries"] == 2);
    assert!(recalled(&two, "ben", "The code of the red boat is").contains(&boat.to_owned()));
    let metrics = two.get("/metrics").1;
    assert!(metrics.contains("\ncart_long_term_reachable 1\n"), "{metrics}");

    let url = database.url();
    let pulled = there.json(["memory", "pull", "agent", "--ltm", &url, "--save", "agent:pulled"]);
    assert_eq!(pulled["memory"]["ltm"]["slots"], 2);
    let shown = there.json(["memory", "show", "agent:pulled"]);
    assert!(shown.to_string().contains(boat), "{shown}");
    // Another model has another space.
    let other = fixture("logits/qwen2");
    there.ok(["pack", &other, "-t", "other"]);
    let refused = there.refused(["memory", "pull", "other", "--ltm", &url, "--save", "other:x"]);
    assert!(refused.contains("no long-term memory of space"), "{refused}");
    assert!(one.stop().success() && two.stop().success());
}

#[test]
fn while_the_database_is_away_generation_goes_on_and_what_is_offered_waits() {
    let Some(mut database) = Database::start() else { return };
    let cart = with_agent(&fixture("tiny"));
    let server = serve(&cart, &database);
    tell(&server, "anna", "The code of the red boat is 4821.");
    database.kill();
    let told = ["The name of the black cat is Mia.", "The key lies under the third stone."];
    for text in told {
        let used = tell(&server, "anna", text);
        assert_eq!((&used["pending"], &used["reachable"]), (&json!(1), &json!(false)), "{used}");
        assert!(used["error"].as_str().unwrap().contains("can't be reached"), "{used}");
        assert_eq!(used["offers"][0]["settlement"], Value::Null);
    }
    // Reads are of the last snapshot.
    let question = "The code of the red boat is";
    assert!(recalled(&server, "ben", question).iter().any(|text| text.contains("4821")));
    let metrics = server.get("/metrics").1;
    assert!(metrics.contains("\ncart_long_term_reachable 0\n"), "{metrics}");
    assert!(metrics.contains("\ncart_long_term_pending 2\n"), "{metrics}");
    // It goes away for good; the next one on the same store finds what it was offered.
    server.kill();
    database.resume();
    let next = serve(&cart, &database);
    wait_until("the commit of what was left", || long_term(&next)["pending"] == 0);
    let state = long_term(&next);
    assert_eq!((&state["recovered"], &state["taken"]), (&json!(2), &json!(2)), "{state}");
    for text in told {
        let count = database
            .query(&format!("SELECT count(*) FROM cart_ltm_slots WHERE state->>'text' = '{text}'"));
        assert_eq!(count, "1", "{text}");
    }
    assert!(next.stop().success());
    // Everything is settled, so nothing is left for the one after.
    let last = serve(&cart, &database);
    assert_eq!(long_term(&last)["recovered"], 0);
}

#[test]
fn a_server_without_its_database_does_not_start_and_says_why() {
    let Some(mut database) = Database::start() else { return };
    let cart = with_agent(&fixture("tiny"));
    database.stop();
    let url = database.url().replace("cart@", "cart:secret@");
    let said = cart.refused(["serve", "agent", "--listen", "127.0.0.1:0", "--ltm", &url]);
    assert!(said.contains("can't be reached") && !said.contains("secret"), "{said}");
    let wrong = cart.refused_with_code(2, ["serve", "agent", "--ltm", "mysql://here/there"]);
    assert!(wrong.contains("postgres://"), "{wrong}");
}
