"""Which messages does KEDA exchange with an external scaler? Made at run time from a table, without generated code.

Names and numbers of the fields are those of ``externalscaler.proto`` in KEDA 2. Text must be UTF-8; fields that a later
version adds are skipped, as protobuf has it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Message: TypeAlias = Any
"""What is made at run time has no static type."""

PACKAGE = "externalscaler"
SERVICE = f"{PACKAGE}.ExternalScaler"

_FIELDS = {
    "ScaledObjectRef": ("name string", "namespace string", "scalerMetadata *ScaledObjectRef.ScalerMetadataEntry"),
    "IsActiveResponse": ("result bool",),
    "MetricSpec": ("metricName string", "targetSize int64", "targetSizeFloat double"),
    "GetMetricSpecResponse": ("metricSpecs *MetricSpec",),
    "GetMetricsRequest": ("scaledObjectRef ScaledObjectRef", "metricName string"),
    "MetricValue": ("metricName string", "metricValue int64", "metricValueFloat double"),
    "GetMetricsResponse": ("metricValues *MetricValue",),
}
"""Fields by message, in the order of their numbers from 1 on: name and type, with a star where there are several."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="externalscaler.proto", package=PACKAGE, syntax="proto3")
    for message, fields in _FIELDS.items():
        _add_fields(file.message_type.add(name=message), fields)
    entry = file.message_type[0].nested_type.add(name="ScalerMetadataEntry")
    _add_fields(entry, ("key string", "value string"))
    entry.options.map_entry = True
    return file


def _add_fields(message: descriptor_pb2.DescriptorProto, fields: tuple[str, ...]) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, field in enumerate(fields, 1):
        name, _, kind = field.partition(" ")
        label = kinds.LABEL_REPEATED if kind.startswith("*") else kinds.LABEL_OPTIONAL
        added = message.field.add(name=name, number=number, label=label)
        plain = kinds.Type.DESCRIPTOR.values_by_name.get(f"TYPE_{kind.upper()}")
        if plain is not None:
            added.type = plain.number
        else:
            added.type, added.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind.removeprefix('*')}"


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _class_of(name: str) -> Message:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ScaledObjectRef = _class_of("ScaledObjectRef")
IsActiveResponse = _class_of("IsActiveResponse")
GetMetricSpecResponse = _class_of("GetMetricSpecResponse")
GetMetricsRequest = _class_of("GetMetricsRequest")
GetMetricsResponse = _class_of("GetMetricsResponse")
