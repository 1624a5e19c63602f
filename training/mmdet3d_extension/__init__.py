"""FULLER inside OpenMMLab's mmdet3d: an optional extra that nothing else of ours imports.

A config of mmdet3d turns it on with `custom_imports = dict(imports=[
"training.mmdet3d_extension.registration"])`. `bevfusion_weights` and `bevfusion_configuration` need no
package of OpenMMLab.
"""
