"""Evasion attacks: stock ART where it is right, batched subclasses of ours where it is not or is slow.

Importing this package imports neither torch nor ART. To add an attack, add one file with one subclass of
:class:`advmerge.attacks.base.TorchAttack`; its class name is then a method that a study may name.
"""

from advmerge.attacks.registry import check, module_of, refuse, resolve

__all__ = ["check", "module_of", "refuse", "resolve"]
