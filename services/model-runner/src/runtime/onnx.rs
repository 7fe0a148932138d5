//! ONNX models by tract, from memory. Standard-domain operators; external data files cannot be reached from a buffer.

use std::{io::Cursor, sync::Arc};

use tract_onnx::prelude::{
    Datum, DatumType, Framework, InferenceModelExt, IntoRunnable, IntoTValue, TVec, Tensor as Value, TypedFact, TypedModel,
    TypedRunnableModel, onnx,
};

use super::{
    InferError, LoadError, Model, Runtime,
    tensor::{DataType, Signature, Tensor, TensorSpec, Values},
};

/// The name of the format.
pub const MEDIA_TYPE: &str = "onnx";

/// Reads ONNX, opset 17 and its neighbours.
#[derive(Clone, Copy, Debug)]
pub struct OnnxRuntime;

impl Runtime for OnnxRuntime {
    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }

    fn load(&self, plaintext: &[u8]) -> Result<Box<dyn Model>, LoadError> {
        // The runtime's own messages quote the graph, and the graph is a secret: only the stage is told.
        let parsed = onnx().model_for_read(&mut Cursor::new(plaintext)).map_err(|_| malformed("does not parse"))?;
        let typed = parsed.into_typed().map_err(|_| malformed("shapes or types cannot be inferred, or an operator is not supported"))?;
        let signature = signature(&typed)?;
        let optimized = typed.into_optimized().map_err(|_| malformed("cannot be optimised"))?;
        let plan = optimized.into_runnable().map_err(|_| malformed("cannot be run"))?;
        Ok(Box::new(OnnxModel { plan, signature }))
    }
}

struct OnnxModel {
    plan: Arc<TypedRunnableModel>,
    signature: Signature,
}

impl Model for OnnxModel {
    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, InferError> {
        let arranged = self.signature.arrange(inputs)?;
        let values = arranged.into_iter().map(to_value).collect::<Result<TVec<_>, _>>()?;
        let outputs = self.plan.run(values).map_err(|_| InferError::Runtime)?;
        self.signature.outputs.iter().zip(outputs.iter()).map(|(spec, value)| from_value(spec, value)).collect()
    }
}

fn to_value(input: &Tensor) -> Result<tract_onnx::prelude::TValue, InferError> {
    let value = match &input.values {
        Values::Fp32(values) => Value::from_shape(&input.shape, values),
        Values::Int64(values) => Value::from_shape(&input.shape, values),
    };
    value.map(IntoTValue::into_tvalue).map_err(|_| InferError::Runtime)
}

fn from_value(spec: &TensorSpec, value: &Value) -> Result<Tensor, InferError> {
    let values = match spec.data_type {
        DataType::Fp32 => elements(value).map(Values::Fp32),
        DataType::Int64 => elements(value).map(Values::Int64),
    };
    Ok(Tensor { name: spec.name.clone(), shape: value.shape().to_vec(), values: values? })
}

/// The elements, cast where the runtime keeps its own integer type for what the model declares as int64.
fn elements<T: Datum + Copy>(value: &Value) -> Result<Vec<T>, InferError> {
    let cast = value.cast_to::<T>().map_err(|_| InferError::Runtime)?;
    let plain = cast.try_as_plain_ram().map_err(|_| InferError::Runtime)?;
    plain.as_slice::<T>().map(<[T]>::to_vec).map_err(|_| InferError::Runtime)
}

fn signature(model: &TypedModel) -> Result<Signature, LoadError> {
    let name = |outlet: tract_onnx::prelude::OutletId| {
        model.outlet_label(outlet).map_or_else(|| model.node(outlet.node).name.clone(), str::to_owned)
    };
    let specs = |outlets: &[tract_onnx::prelude::OutletId]| {
        let spec = |outlet: &tract_onnx::prelude::OutletId| {
            let fact = model.outlet_fact(*outlet).map_err(|_| malformed("an input or output has no type"))?;
            Ok(TensorSpec { name: name(*outlet), data_type: data_type(fact)?, shape: shape(fact) })
        };
        outlets.iter().map(spec).collect::<Result<Vec<_>, LoadError>>()
    };
    let inputs = model.input_outlets().map_err(|_| malformed("it has no inputs"))?;
    let outputs = model.output_outlets().map_err(|_| malformed("it has no outputs"))?;
    Ok(Signature { inputs: specs(inputs)?, outputs: specs(outputs)? })
}

fn data_type(fact: &TypedFact) -> Result<DataType, LoadError> {
    match fact.datum_type {
        DatumType::F32 => Ok(DataType::Fp32),
        DatumType::I64 | DatumType::TDim => Ok(DataType::Int64),
        _ => Err(malformed("inputs and outputs must be float32 or int64")),
    }
}

fn shape(fact: &TypedFact) -> Vec<Option<usize>> {
    fact.shape.iter().map(|dimension| dimension.as_i64().and_then(|extent| usize::try_from(extent).ok())).collect()
}

const fn malformed(problem: &'static str) -> LoadError {
    LoadError::Malformed { media_type: MEDIA_TYPE, problem }
}
