//! Traces that are refused, each with the line and the field that it names.

use cart_memory::trace::{Trace, TraceError};

const HEADER: &str =
    r#"{"trace": "cart.memory-trace/1", "dim": 2, "config": {"merge": "nearest"}}"#;

/// Does every line; tells what the refused one said.
fn refused(text: &str) -> String {
    let run = || -> Result<(), TraceError> {
        let mut trace = Trace::open(text)?;
        while trace.step()?.is_some() {}
        Ok(())
    };
    run().expect_err(text).to_string()
}

#[test]
fn headers_are_refused_by_field() {
    let cases = [
        ("", "line 1: the trace is empty"),
        ("\n\n[1]", "line 3: expected an object"),
        (r#"{"dim": 2}"#, "line 1, field `trace`: is missing"),
        (r#"{"trace": "other/1", "dim": 2}"#, "line 1, field `trace`: the trace says `other/1`"),
        (r#"{"trace": "cart.memory-trace/1"}"#, "line 1, field `dim`: is missing"),
        (r#"{"trace": "cart.memory-trace/1", "dim": 0}"#, "line 1, field `dim`: is 0; allowed"),
        (
            r#"{"trace": "cart.memory-trace/1", "dim": 2, "config": {"stm_slots": 0}}"#,
            "line 1, field `config`: memory setting `stm_slots` is 0; allowed: 1 to 1048576",
        ),
        (
            r#"{"trace": "cart.memory-trace/1", "dim": 2, "config": {"stm_slot": 3}}"#,
            "line 1, field `config`: the settings can't be read: unknown field `stm_slot`",
        ),
        (
            r#"{"trace": "cart.memory-trace/1", "dim": 2, "config": {"graph": {"alpha": 2}}}"#,
            "line 1, field `config`: memory setting `graph.alpha` is 2; allowed: 0 to 1",
        ),
        (
            r#"{"trace": "cart.memory-trace/1", "dim": 2, "centre": [1]}"#,
            "line 1, field `centre`: has 1 values, expected `dim` = 2",
        ),
        (
            r#"{"trace": "cart.memory-trace/1", "dim": 2, "extra": 1}"#,
            "line 1, field `extra`: the operation has no such field",
        ),
    ];
    for (text, expected) in cases {
        let said = refused(text);
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
}

#[test]
fn operations_are_refused_by_line_and_field() {
    let cases = [
        ("{", "line 2: this is no JSON"),
        (r#"{"key": [1, 0]}"#, "line 2, field `op`: is missing"),
        (r#"{"op": "observ"}"#, "line 2, field `op`: there is no operation `observ`"),
        (r#"{"op": "observe", "energy": 1}"#, "line 2, field `key`: is missing"),
        (
            r#"{"op": "observe", "key": [1, 0]}"#,
            "line 2, field `energy`: is missing; give `energy`",
        ),
        (
            r#"{"op": "observe", "key": [1, NaN], "energy": 1}"#,
            "line 2, field `key`: NaN and infinities are no JSON",
        ),
        (
            r#"{"op": "observe", "key": [1, 1e39], "energy": 1}"#,
            "line 2, field `key`: is 1e39 at index 1; allowed",
        ),
        (
            r#"{"op": "observe", "key": [1, 0, 0], "energy": 1}"#,
            "line 2, field `key`: key has 3 values, expected 2",
        ),
        (
            r#"{"op": "observe", "key": [0, 0], "energy": 1}"#,
            "line 2, field `key`: key (row 0) is zero",
        ),
        (
            r#"{"op": "observe", "key": [1, 0], "energy": 1.5}"#,
            "line 2, field `energy`: energy is 1.5; allowed: 0 to 1",
        ),
        (
            r#"{"op": "observe", "key": [1, 0], "energy": "1"}"#,
            "line 2, field `energy`: is a text, expected a number",
        ),
        (
            r#"{"op": "observe", "key": [1, 0], "energy": 1, "reward": 1}"#,
            "line 2, field `reward`: the operation has no such field",
        ),
        (
            r#"{"op": "observe", "key": [1, 0], "surprise": -2}"#,
            "line 2, field `surprise`: surprise is -2",
        ),
        (r#"{"op": "recall", "query": [0, 0]}"#, "line 2, field `query`: query (row 0) is zero"),
        (r#"{"op": "recall", "query": [1, 0], "k": 0}"#, "line 2, field `k`: is 0; allowed"),
        (r#"{"op": "advance", "at": -1}"#, "line 2, field `at`: is -1; allowed"),
        (
            r#"{"op": "advance", "at": 9007199254740992}"#,
            "line 2, field `at`: tick 9007199254740992",
        ),
        (
            "{\"op\": \"advance\", \"at\": 5}\n{\"op\": \"advance\", \"at\": 4}",
            "line 3, field `at`: tick 4 lies before",
        ),
        (r#"{"op": "cycle"}"#, "line 2: the setting `buffer` or `store` is not set"),
        (
            r#"{"op": "set_gate", "slot": "stm:0", "gate": 1}"#,
            "line 2, field `slot`: there is no slot stm:0",
        ),
        (
            r#"{"op": "set_gate", "slot": "0", "gate": 1}"#,
            "line 2, field `slot`: is `0`, expected a slot such as",
        ),
        (
            r#"{"op": "attach_goal", "slot": "stm:0", "vector": [1, 0]}"#,
            "line 2: the setting `goal_vectors` is not set",
        ),
        (
            r#"{"op": "counterfactual", "query": [1, 0], "samples": 0}"#,
            "line 2, field `samples`: `samples` is 0",
        ),
        (r#"{"op": "advance", "op": "advance"}"#, "line 2: this is no JSON"),
    ];
    for (line, expected) in cases {
        let said = refused(&format!("{HEADER}\n{line}\n"));
        assert!(said.starts_with(expected), "{line}\n{said}");
    }
}

#[test]
fn a_line_that_is_refused_changes_nothing() {
    let text = format!(
        "{HEADER}\n{{\"op\": \"observe\", \"key\": [1, 0], \"energy\": 0.5}}\n{{\"op\": \"cycle\"}}"
    );
    let mut trace = Trace::open(&text).unwrap();
    trace.step().unwrap();
    let before = trace.memory().snapshot();
    assert!(trace.step().is_err());
    assert_eq!(trace.memory().snapshot(), before);
}
