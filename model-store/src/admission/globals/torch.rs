//! Names of torch: tensors, storages, and its standard layers.

use super::{Names, Rule};

/// Element types of tensors, and other constants.
const CONSTANTS: &[&str] = &[
    "bfloat16",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
    "bits8",
    "bool",
    "cdouble",
    "cfloat",
    "channels_last",
    "channels_last_3d",
    "chalf",
    "complex128",
    "complex32",
    "complex64",
    "contiguous_format",
    "double",
    "float",
    "float16",
    "float32",
    "float4_e2m1fn_x2",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "half",
    "int",
    "int16",
    "int32",
    "int64",
    "int8",
    "long",
    "per_channel_affine",
    "per_channel_affine_float_qparams",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "preserve_format",
    "qint32",
    "qint8",
    "quint2x4",
    "quint4x2",
    "quint8",
    "short",
    "sparse_coo",
    "sparse_csr",
    "strided",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
];

const TENSORS: &[&str] = &[
    "BFloat16Tensor",
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
];

/// Functions that make a tensor of a storage.
const REBUILD: &[&str] = &[
    "_rebuild_device_tensor_from_cpu_tensor",
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_qtensor",
    "_rebuild_sparse_tensor",
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
];

/// Every allowed name of torch but storages and layers.
pub(super) const EXACT: &[Names] = &[
    ("torch", Rule::Named, CONSTANTS),
    ("torch", Rule::Named, TENSORS),
    ("torch.cuda", Rule::Named, TENSORS),
    ("torch", Rule::Any, &["Size", "Tensor", "device"]),
    ("torch._tensor", Rule::Any, &["Tensor"]),
    ("torch._tensor", Rule::FromType, &["_rebuild_from_type_v2"]),
    ("torch._utils", Rule::Any, REBUILD),
    (
        "torch.jit._pickle",
        Rule::Identity,
        &[
            "build_boollist",
            "build_doublelist",
            "build_intlist",
            "build_tensorlist",
            "restore_type_tag",
        ],
    ),
    ("torch.serialization", Rule::Any, &["_get_layout"]),
    (
        "torch.nn.parameter",
        Rule::Any,
        &["Buffer", "Parameter", "UninitializedParameter"],
    ),
    ("torch.nn.functional", Rule::Named, &["gelu", "relu"]),
    ("torch._C._nn", Rule::Named, &["gelu"]),
];

/// Modules of `torch.nn.modules` and the layers they define.
const LAYERS: &[&str] = &[
    "activation CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid \
     LogSoftmax Mish MultiheadAttention PReLU ReLU ReLU6 RReLU SELU SiLU Sigmoid Softmax Softmax2d \
     Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold",
    "adaptive AdaptiveLogSoftmaxWithLoss",
    "batchnorm BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm",
    "channelshuffle ChannelShuffle",
    "container ModuleDict ModuleList ParameterDict ParameterList Sequential",
    "conv Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    "distance CosineSimilarity PairwiseDistance",
    "dropout AlphaDropout Dropout Dropout1d Dropout2d Dropout3d FeatureAlphaDropout",
    "flatten Flatten Unflatten",
    "fold Fold Unfold",
    "instancenorm InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    "linear Bilinear Identity LazyLinear Linear NonDynamicallyQuantizableLinear",
    "loss BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss \
     HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss MSELoss MarginRankingLoss NLLLoss PoissonNLLLoss \
     SmoothL1Loss SoftMarginLoss TripletMarginLoss",
    "module Module",
    "normalization CrossMapLRN2d GroupNorm LayerNorm LocalResponseNorm RMSNorm",
    "padding CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d \
     ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d \
     ReplicationPad3d ZeroPad1d ZeroPad2d ZeroPad3d",
    "pixelshuffle PixelShuffle PixelUnshuffle",
    "pooling AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d \
     AdaptiveMaxPool2d AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d FractionalMaxPool2d \
     LPPool1d LPPool2d MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d",
    "rnn GRU GRUCell LSTM LSTMCell RNN RNNCell",
    "sparse Embedding EmbeddingBag",
    "transformer Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder \
     TransformerEncoderLayer",
    "upsampling Upsample UpsamplingBilinear2d UpsamplingNearest2d",
];

/// Storages and the sizes of their elements, in bytes.
const STORAGES: &[(&str, u8)] = &[
    ("BFloat16Storage", 2),
    ("BoolStorage", 1),
    ("ByteStorage", 1),
    ("CharStorage", 1),
    ("ComplexDoubleStorage", 16),
    ("ComplexFloatStorage", 8),
    ("DoubleStorage", 8),
    ("FloatStorage", 4),
    ("HalfStorage", 2),
    ("IntStorage", 4),
    ("LongStorage", 8),
    ("QInt32Storage", 4),
    ("QInt8Storage", 1),
    ("QUInt2x4Storage", 1),
    ("QUInt4x2Storage", 1),
    ("QUInt8Storage", 1),
    ("ShortStorage", 2),
    ("UntypedStorage", 1),
];

/// How a storage may be used.
pub(super) fn storage(module: &str, name: &str) -> Option<Rule> {
    let of_torch = matches!(module, "torch" | "torch.cuda" | "torch.storage");
    let known = STORAGES
        .iter()
        .find(|(storage, _)| of_torch && *storage == name);
    known.map(|(_, size)| Rule::Storage(*size))
}

/// How a layer may be used: instances are made of it, it is not called.
pub(super) fn layer(module: &str, name: &str) -> Option<Rule> {
    let module = module.strip_prefix("torch.nn.modules.")?;
    let mut words = LAYERS.iter().map(|line| line.split(' '));
    let mut layers = words.find_map(|mut line| (line.next() == Some(module)).then_some(line))?;
    layers.any(|layer| layer == name).then_some(Rule::Data)
}
