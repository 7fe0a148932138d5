//! The runtimes against answers computed elsewhere: Intel's sample (its C++ was run), scikit-learn (see `models/`).
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use model_runner::runtime::{FEATURES, InferError, LINEAR, LoadError, Model, ONNX, Quirk, Runtimes, Tensor, Values};
use serde::Deserialize;

const LINREG: &[u8] = include_bytes!("../../../models/diabetes-linreg.model");
const BREAST_CANCER: &[u8] = include_bytes!("../../../models/breast-cancer.onnx");
const ANSWERS: &str = include_str!("../../../models/breast-cancer.answers.json");

/// pregnancies, blood-glucose, blood-pressure, skin-thickness, insulin, bmi, dbf, age.
const README_ROW: [f32; 8] = [3.0, 130.0, 78.0, 23.0, 79.0, 28.4, 0.323, 34.0];
const SCRIPT_ROW: [f32; 8] = [1.0, 128.0, 88.0, 39.0, 110.0, 36.5, 1.057, 37.0];

fn features(rows: &[&[f32]]) -> Tensor {
    let width = rows[0].len();
    Tensor { name: "features".into(), shape: vec![rows.len(), width], values: Values::Fp32(rows.concat()) }
}
fn high_risk(model: &dyn Model, row: [f32; 8]) -> Values {
    model.infer(&[features(&[&row])]).unwrap().remove(0).values
}
fn linear(quirk: Quirk, text: &[u8]) -> Result<Box<dyn Model>, LoadError> {
    Runtimes::new(quirk).load(LINEAR, text)
}

#[test]
fn the_linear_model_gives_the_documented_answers() {
    let model = linear(Quirk::Intended, LINREG).unwrap();
    assert_eq!(high_risk(&*model, README_ROW), Values::Int64(vec![0]));
    assert_eq!(high_risk(&*model, SCRIPT_ROW), Values::Int64(vec![1]));
    assert_eq!(high_risk(&*model, [0.0; 8]), Values::Int64(vec![0]));
}

#[test]
fn the_sample_quirk_gives_the_samples_answers() {
    let model = linear(Quirk::Sample, LINREG).unwrap();
    assert_eq!(high_risk(&*model, README_ROW), Values::Int64(vec![1]));
    assert_eq!(high_risk(&*model, SCRIPT_ROW), Values::Int64(vec![1]));
    assert_eq!(high_risk(&*model, [0.0; 8]), Values::Int64(vec![0]));
    // Age counts for nothing there.
    let mut old = README_ROW;
    old[7] = 0.0;
    assert_eq!(high_risk(&*model, old), Values::Int64(vec![1]));
    // One trailing blank saves the ninth number; a newline does not.
    let with_blank = linear(Quirk::Sample, &[LINREG, b" "].concat()).unwrap();
    assert_eq!(high_risk(&*with_blank, README_ROW), Values::Int64(vec![0]));
    let with_newline = linear(Quirk::Sample, &[LINREG, b"\n"].concat()).unwrap();
    assert_eq!(high_risk(&*with_newline, README_ROW), Values::Int64(vec![1]));
}

#[test]
fn the_weights_decide_and_so_does_the_threshold() {
    let text = |weights: [&str; 8], threshold: &str| format!("{} {threshold}", weights.join(" "));
    for (i, feature) in FEATURES.iter().enumerate() {
        let mut weights = ["0"; 8];
        weights[i] = "1";
        let model = linear(Quirk::Intended, text(weights, "0.5").as_bytes()).unwrap();
        let mut row = [0.0; 8];
        row[i] = 1000.0;
        assert_eq!(high_risk(&*model, row), Values::Int64(vec![1]), "{}", feature.name);
        assert_eq!(high_risk(&*model, [0.0; 8]), Values::Int64(vec![0]), "{}", feature.name);
    }
    // Strictly greater: 100 / 200 is not over 0.5.
    let model = linear(Quirk::Intended, text(["0", "1", "0", "0", "0", "0", "0", "0"], "0.5").as_bytes()).unwrap();
    assert_eq!(high_risk(&*model, [0.0, 100.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), Values::Int64(vec![0]));
}

#[test]
fn several_rows_are_answered_in_order() {
    let model = linear(Quirk::Intended, LINREG).unwrap();
    let answers = model.infer(&[features(&[&README_ROW, &SCRIPT_ROW, &README_ROW])]).unwrap().remove(0);
    assert_eq!((answers.shape, answers.values), (vec![3], Values::Int64(vec![0, 1, 0])));
}

#[test]
fn text_that_is_not_nine_finite_numbers_is_refused() {
    let cases: [&[u8]; 13] = [
        b"",
        b" ",
        b"1 2 3 4 5 6 7 8",
        b"1 2 3 4 5 6 7 8 9 10",
        b"1 2 3 4 5 6 7 8 nine",
        b"1 2 3 4 5 6 7 8 NaN",
        b"1 2 3 4 5 6 7 8 inf",
        b"1 2 3 4 5 6 7 8 1e39",
        b"1,2,3,4,5,6,7,8,9",
        b"1 2 3 4 5 6 7 8 9\0",
        "1 2 3 4 5 6 7 8 \u{665}".as_bytes(),
        &[0xff; 85],
        &[b' '; 5000],
    ];
    for text in cases {
        let error = linear(Quirk::Intended, text).err().unwrap();
        assert!(matches!(error, LoadError::Malformed { media_type: LINEAR, .. }), "{error}");
    }
    let sample_refuses: [&[u8]; 4] = [b"1 2 3 4 5 6 7 8", b"1  2 3 4 5 6 7 8 9 ", b"1 2 3 4 5 6 7 8 9 10 ", b"a 2 3 4 5 6 7 8 9 "];
    for text in sample_refuses {
        assert!(linear(Quirk::Sample, text).is_err(), "{text:?}");
    }
    // Any white space separates the numbers of the intended reading.
    assert!(linear(Quirk::Intended, b"\n1\t2  3 4 5 6 7 8\r\n9\n").is_ok());
}

#[derive(Deserialize)]
struct Answer {
    features: Vec<f32>,
    probability: f32,
    label: u8,
}

#[test]
fn the_onnx_model_agrees_with_scikit_learn() {
    let model = Runtimes::new(Quirk::Intended).load(ONNX, BREAST_CANCER).unwrap();
    let answers: Vec<Answer> = serde_json::from_str(ANSWERS).unwrap();
    let rows: Vec<&[f32]> = answers.iter().map(|answer| answer.features.as_slice()).collect();
    let outputs = model.infer(&[features(&rows)]).unwrap();
    let [probability, label] = outputs.as_slice() else { panic!("two outputs expected") };
    assert_eq!((probability.name.as_str(), label.name.as_str()), ("probability", "label"));
    assert_eq!(probability.shape, [answers.len(), 1]);
    let (Values::Fp32(probabilities), Values::Fp32(labels)) = (&probability.values, &label.values) else { panic!("floats expected") };
    for (i, answer) in answers.iter().enumerate() {
        assert!((probabilities[i] - answer.probability).abs() < 2e-6, "row {i}: {} against {}", probabilities[i], answer.probability);
        assert!((labels[i] - f32::from(answer.label)).abs() < 0.1, "row {i}");
    }
    assert!(labels.contains(&0.0) && labels.contains(&1.0), "both classes occur");

    let one = model.infer(&[features(&rows[..1])]).unwrap();
    assert_eq!(one[0].shape, [1, 1], "the batch is free");
}

#[test]
fn bytes_that_are_no_onnx_model_are_refused() {
    let runtimes = Runtimes::new(Quirk::Intended);
    for bytes in [&b""[..], b"not a model", &BREAST_CANCER[..BREAST_CANCER.len() / 2], LINREG] {
        let error = runtimes.load(ONNX, bytes).err().unwrap();
        assert!(matches!(error, LoadError::Malformed { media_type: ONNX, .. }), "{error}");
    }
    assert_eq!(runtimes.load("pickle", BREAST_CANCER).err(), Some(LoadError::MediaType));
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let runtimes = Runtimes::new(Quirk::Intended);
    for (media_type, bytes, width) in [(LINEAR, LINREG, 8), (ONNX, BREAST_CANCER, 30)] {
        let model = runtimes.load(media_type, bytes).unwrap();
        let good = features(&[&vec![1.0; width]]);
        let with = |change: &dyn Fn(&mut Tensor)| {
            let mut tensor = good.clone();
            change(&mut tensor);
            vec![tensor]
        };
        let mut cases = vec![
            (vec![], "missing"),
            (vec![good.clone(), good.clone()], "twice"),
            (with(&|t| t.name = "other".into()), "no input"),
            (with(&|t| t.shape = vec![width]), "shape"),
            (with(&|t| t.shape = vec![1, width + 1]), "shape"),
            (with(&|t| t.shape = vec![0, width]), "shape"),
            (with(&|t| t.shape = vec![4097, width]), "shape"),
            (with(&|t| t.shape = vec![usize::MAX, width]), "shape"),
            (with(&|t| t.shape = vec![2, width]), "values"),
            (with(&|t| t.values = Values::Int64(vec![1; width])), "datatype"),
        ];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![1.0; width];
            row[3] = bad;
            cases.push((vec![features(&[&row])], "value 3 is not a finite"));
        }
        for (inputs, wanted) in cases {
            let error = model.infer(&inputs).unwrap_err();
            assert!(matches!(error, InferError::Input(_)) && error.to_string().contains(wanted), "{error} should say {wanted}");
        }
        assert!(model.infer(&[good]).is_ok(), "and it still answers");
    }
}

#[test]
fn neither_models_nor_values_are_printed() {
    let model = linear(Quirk::Intended, LINREG).unwrap();
    assert_eq!(format!("{:?}", &*model), "Model(intel-linreg, redacted)");
    assert!(!format!("{:?}", features(&[&[123.5; 8]])).contains("123"));
}
