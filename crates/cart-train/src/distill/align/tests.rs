//! A teacher of letters and pairs of letters, and students of letters, or of other pieces.

use super::*;

/// The longest token at each place, and the end.
fn greedy(vocabulary: &Vocabulary, text: &[u8]) -> Vec<u32> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let most = (1..=4).rev().filter(|len| at + len <= text.len());
        let mut found = most.filter_map(|len| vocabulary.exactly(&text[at..at + len]));
        let token = found.next().unwrap();
        at += vocabulary.piece(token).len();
        tokens.push(token);
    }
    tokens
}

fn first(vocabulary: &Vocabulary) -> impl Fn(&str) -> Option<u32> + '_ {
    move |text| greedy(vocabulary, text.as_bytes()).first().copied()
}

/// Pieces, and an end after them.
fn vocabulary(pieces: &[&str]) -> Vocabulary {
    let mut pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect();
    pieces.push(Vec::new());
    let end = pieces.len() as u32 - 1;
    Vocabulary::new(pieces, vec![end])
}

fn alignment(teacher: &[&str], student: &[&str], texts: &[&str], begin: Option<u32>) -> Alignment {
    let [teacher, student] = [teacher, student].map(vocabulary);
    let streams = [&teacher, &student].map(|of| {
        let mut stream = TokenStream::default();
        for text in texts {
            stream.push(of, text.as_bytes(), &greedy(of, text.as_bytes()), of.end()).unwrap();
        }
        stream
    });
    let [said, own] = streams;
    let (of_teacher, of_student) = (teacher.clone(), student.clone());
    let firsts: [&FirstToken<'_>; 2] = [&first(&of_teacher), &first(&of_student)];
    Alignment::new((said, teacher), (own, &student), begin, firsts)
}

fn batch(alignment: &Alignment, start: usize, context: usize) -> Batch {
    let tokens = alignment.student_tokens();
    Batch {
        rows: 1,
        tokens: tokens[start..start + context].to_vec(),
        targets: tokens[start + 1..=start + context].to_vec(),
        starts: vec![start],
    }
}

/// Logits that look random.
fn logits(row: usize, count: usize) -> Vec<f32> {
    let mut chance = crate::Chance::new(9, &[row as u64]);
    (0..count).map(|_| (3.0 * chance.normal()) as f32).collect()
}

const LETTERS: [&str; 4] = ["a", "b", "c", "d"];
const PAIRS: [&str; 8] = ["a", "b", "c", "d", "ab", "abc", "cd", "dd"];

/// Letters between tokens and inside of one have what all tokens have that could go on so.
/// What a teacher says with these logits, `[rows][vocab]`.
fn said(aligned: &Alignment, compared: &Compared, logits: &[Vec<f32>], best: usize) -> Said {
    let rows = compared.by_teacher().into_iter().zip(logits);
    let said = rows.flat_map(|(rows, logits)| {
        let said = aligned.said(compared, &rows, logits, best);
        rows.into_iter().zip(said)
    });
    compared.whole(said, best)
}

#[test]
fn letters_have_what_longer_tokens_say_of_them() {
    let aligned = alignment(&PAIRS, &LETTERS, &["abcdab", "dda"], None);
    let report = aligned.report();
    // a b c d, and the end.
    assert_eq!((report.classes, report.single), (5, 2), "{report:?}");
    assert_eq!((report.student_tokens, report.teacher_tokens), (11, 7));
    // abc|d|ab|end, dd|a|end.
    assert_eq!(report.shared_ends, 7.0 / 11.0);
    let batch = batch(&aligned, 0, 10);
    let compared = aligned.compared(&batch).remove(0);
    assert_eq!((compared.tokens.as_slice(), compared.bytes), (&[5, 3, 4, 8, 7, 0, 8][..], 6));
    let rows: Vec<Vec<f32>> = (0..7).map(|row| logits(row, 9)).collect();
    let said = said(&aligned, &compared, &rows, 4);
    let ways: Vec<_> = compared.ways().collect();
    let none = None;
    // a, ab: the first token of the teacher is not predicted. abc: d. abcd: a. abcda, inside of ab: b.
    let expected =
        [none, none, Some(0), Some(0), Some(1), Some(0), Some(0), Some(1), Some(0), Some(0)];
    assert_eq!(ways, expected);
    let power = |row: usize, token: usize| f64::from(rows[row][token]).exp();
    let check = |at: usize, parts: &[(u32, f64)]| {
        let all: f64 = parts.iter().map(|(_, part)| part).sum();
        let (tokens, logs) = (&said.tokens[at * 4..][..4], &said.logs[at * 5..][..5]);
        let mut left: f64 = 1.0;
        for (token, &log) in tokens.iter().zip(logs) {
            let part = parts.iter().find(|(group, _)| group == token).map_or(0.0, |of| of.1 / all);
            assert!((f64::from(log).exp() - part).abs() < 1e-6, "{at}: {tokens:?} {logs:?}");
            left -= part;
        }
        assert!((f64::from(logs[4]).exp() - left).abs() < 1e-6);
        assert!(logs[..4].is_sorted_by(|a, b| a >= b));
    };
    // Of letters 0 to 3 and the end, 4, between tokens; of bytes inside.
    let between = |row: usize| {
        let p = |tokens: &[usize]| tokens.iter().map(|&token| power(row, token)).sum::<f64>();
        [(0, p(&[0, 4, 5])), (1, p(&[1])), (2, p(&[2, 6])), (3, p(&[3, 7])), (4, p(&[8]))]
    };
    check(2, &between(0));
    check(3, &between(1));
    // After "a": "ab" and "abc" go on with b, and nothing else does.
    check(4, &[(u32::from(b'b'), 1.0)]);
    check(5, &between(2));
    check(9, &between(5));
}

/// Tokens that both have are compared one by one, and what one of both cuts in another way together.
#[test]
fn what_one_side_cuts_in_another_way_is_one_group() {
    // The student lacks abc and dd, and has bc and abcd, which the teacher lacks.
    let student = ["a", "b", "c", "d", "ab", "bc", "cd", "abcd"];
    let aligned = alignment(&PAIRS, &student, &["abcdabcddabcd"], None);
    let map = aligned.groups().map(BETWEEN).to_vec();
    // abcd begins with the teacher's abc, and abc with the student's ab.
    assert_eq!(map[4], map[7]);
    // bc begins with the teacher's b.
    assert_eq!(map[1], map[5]);
    // a, c and cd are what they are; d has the teacher's dd in it; the end is the end.
    let alone = [0, 2, 3, 6, 8];
    for token in alone {
        assert_eq!(map.iter().filter(|&&group| group == map[token]).count(), 1, "{token}");
    }
    assert_eq!(aligned.report().classes, 7);
    // a, c, cd and the end; d is not alone on the other side.
    assert_eq!(aligned.report().single, 4);
}

/// Where both have the same tokens, what is compared is what is compared without alignment.
#[test]
fn the_same_tokens_are_compared_one_by_one() {
    let aligned = alignment(&PAIRS, &PAIRS, &["abcdabcdda", "bcddabab"], None);
    assert_eq!((aligned.report().single, aligned.report().shared_ends), (9, 1.0));
    let batch = batch(&aligned, 1, 8);
    let compared = aligned.compared(&batch).remove(0);
    assert_eq!(compared.tokens, [&batch.tokens[..], &batch.targets[7..]].concat());
    let begun = alignment(&PAIRS, &PAIRS, &["abcdabcdda", "bcddabab"], Some(8));
    let with_begin = begun.compared(&batch).remove(0);
    assert_eq!(with_begin.tokens, [&[8], &compared.tokens[..]].concat());
    assert_ne!(aligned.basis(&compared), begun.basis(&with_begin));
    let rows: Vec<Vec<f32>> = (0..10).map(|row| logits(row, 9)).collect();
    for (compared, aligned, before) in [(compared, &aligned, 0), (with_begin, &begun, 1)] {
        let said = said(aligned, &compared, &rows, 3);
        assert_eq!(compared.ways().collect::<Vec<_>>(), [Some(BETWEEN); 8]);
        let map = aligned.groups().map(BETWEEN);
        for at in 0..8 {
            let of = &rows[at + before];
            let mut order: Vec<usize> = (0..9).collect();
            order.sort_by(|&a, &b| of[b].total_cmp(&of[a]));
            let named: Vec<u32> = order[..3].iter().map(|&token| map[token]).collect();
            assert_eq!(said.tokens[at * 3..][..3], named);
            let all: f64 = of.iter().map(|&x| f64::from(x).exp()).sum();
            for (&token, &log) in order.iter().zip(&said.logs[at * 4..][..3]) {
                let expected = f64::from(of[token]) - all.ln();
                assert!((f64::from(log) - expected).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn tokens_that_do_not_spell_a_text_are_refused_by_the_byte() {
    let letters = vocabulary(&LETTERS);
    let push =
        |text: &[u8], tokens: &[u32]| TokenStream::default().push(&letters, text, tokens, Some(4));
    push(b"abca", &[0, 1, 2, 0]).unwrap();
    assert_eq!(push(b"abca", &[0, 1, 3, 0]), Err(2));
    assert_eq!(push(b"abca", &[0, 1, 2]), Err(3));
    assert_eq!(push(b"ab", &[0, 1, 2]), Err(2));
    // A token without bytes stands for something that is not there.
    assert_eq!(push(b"ab", &[0, 4, 1]), Err(1));
    // A space before the text that its tokenizer puts there.
    let spaced = vocabulary(&[" a", "b"]);
    let mut stream = TokenStream::default();
    stream.push(&spaced, b"ab", &[0, 1], None).unwrap();
    assert_eq!((stream.bytes(0..2), stream.ends(0, 2).collect::<Vec<_>>()), (2, vec![1, 2]));
}

/// A piece of what is no text goes by its longest beginning.
#[test]
fn bytes_that_are_no_text_go_by_the_longest_token() {
    let pieces = |of: &[&[u8]]| of.iter().map(|piece| piece.to_vec()).collect::<Vec<_>>();
    let teacher = Vocabulary::new(pieces(&[b"\xc3", b"\xc3\xa4", b"\xa4", b"x"]), Vec::new());
    let student = Vocabulary::new(pieces(&[b"\xc3", b"\xa4", b"x", b"\xa4x"]), Vec::new());
    let nothing: &FirstToken<'_> = &|_| None;
    let classes = Classes::between(&teacher, &student, [nothing; 2]);
    let map = classes.groups().map(BETWEEN);
    assert_eq!(map[1], map[3]);
    assert!(map[0] != map[1] && map[2] != map[1]);
    let (sums, beyond) = classes.between_tokens(&[0.0; 4]);
    assert_eq!((sums[map[0] as usize], sums[map[1] as usize], beyond), (2.0, 1.0, 0.0));
}
