"""Files to params and back."""

from skipjax.weights import adm as adm
